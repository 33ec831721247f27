//! Settings: how a configuration struct is declared, judged and resolved.
//!
//! `settings!` declares a struct with a default and a help text for each setting and, where only some choices use a
//! setting, with those choices. Its table of settings tells which keys there are, which of them have no effect
//! on a configuration, and what `docs/settings.md` shows. [`resolve()`] reads a configuration from a recipe file,
//! `--set` and flags.

mod check;
mod layers;
mod resolve;

use crate::error::{Error, Fault, Result};

pub use check::Idle;
pub use layers::Flag;
pub use resolve::{Root, on_command_line, resolve, to_toml};

/// A setting that is a path: `~` at its beginning is the home folder.
pub type PathText = String;

/// One setting of the group `C`, or one group within it.
pub struct Setting<C> {
    /// Its name within the group.
    pub name: &'static str,
    /// The choices that use it, in words; "" where it is always used.
    pub used_by: &'static str,
    /// Whether it has an effect on this configuration.
    pub used: fn(&C) -> bool,
    /// Its name, or for a group the names in it, where the value differs from that in the second configuration.
    pub given: fn(&C, &C) -> Vec<String>,
    /// Sets it to its value in the second configuration.
    pub reset: fn(&mut C, &C),
}

/// A setting as the reference shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingRow {
    /// Dotted key.
    pub key: String,
    /// What it does.
    pub help: String,
    /// The choices that use it, in words; "" where it is always used.
    pub used_by: &'static str,
    /// The type of its value, as Rust writes it.
    pub kind: &'static str,
}

/// The table of a group of settings, which `settings!` writes.
pub trait Table: Sized {
    /// Dotted key of the group; "" for the whole recipe.
    const KEY: &'static str;
    /// Settings and groups, in the order of the struct.
    fn table() -> Vec<Setting<Self>>;
    /// All settings, those of groups within the group too; those that name no choices get `used_by`.
    fn rows(used_by: &'static str) -> Vec<SettingRow>;
}

/// A group of settings: what is wrong with them, and which of them have no effect.
pub trait Settings: Table + Default + Clone {
    /// Adds the faults of these settings, those without effect aside.
    fn judge(&self, _faults: &mut Faults) {}

    /// What these settings are compared with to see whether one was given: the defaults.
    fn origin(&self) -> Self {
        Self::default()
    }

    /// Why a setting that these choices use has no effect here.
    fn why_unused(&self, _name: &str, used_by: &str) -> String {
        format!("has no effect without {used_by}")
    }

    /// Settings that were given and have no effect, each with the reason.
    fn idle(&self) -> Vec<(String, String)> {
        self.unused()
    }

    /// These settings without those that have no effect: for a sweep, whose settings are shared by choices that each
    /// use some of them.
    #[must_use]
    fn applicable(&self) -> Self {
        self.without(|setting| !(setting.used)(self))
    }

    /// All that is wrong with these settings, under their dotted keys.
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults { group: Self::KEY, found: Vec::new() };
        for (name, why) in self.idle() {
            faults.add(&name, why);
        }
        self.judge(&mut faults);
        faults.found
    }

    /// A fault of the setting `name`.
    fn fault(name: &str, message: impl Into<String>) -> Fault {
        Fault::new(joined(Self::KEY, name), message)
    }

    /// Refuses settings with faults.
    ///
    /// # Errors
    /// [`Error::Config`] with all of them.
    fn check(&self) -> Result<()> {
        refuse(self.faults())
    }

    /// Names of the settings that were given: those that differ from their defaults.
    fn given(&self) -> Vec<String> {
        let origin = self.origin();
        Self::table().iter().flat_map(|setting| (setting.given)(self, &origin)).collect()
    }

    /// Settings that were given although the table says that this configuration does not use them.
    fn unused(&self) -> Vec<(String, String)> {
        let (origin, mut found) = (self.origin(), Vec::new());
        for setting in Self::table().iter().filter(|setting| !(setting.used)(self)) {
            let why = self.why_unused(setting.name, setting.used_by);
            found.extend((setting.given)(self, &origin).into_iter().map(|name| (name, why.clone())));
        }
        found
    }

    /// These settings with some of them at their defaults.
    #[must_use]
    fn without(&self, dropped: impl Fn(&Setting<Self>) -> bool) -> Self {
        let (mut kept, origin) = (self.clone(), self.origin());
        Self::table().iter().filter(|setting| dropped(setting)).for_each(|setting| (setting.reset)(&mut kept, &origin));
        kept
    }
}

/// Refuses a configuration with faults.
///
/// # Errors
/// [`Error::Config`] with all of them.
pub fn refuse(faults: Vec<Fault>) -> Result<()> {
    if faults.is_empty() { Ok(()) } else { Err(Error::Config(faults)) }
}

/// Collects the faults of one group of settings.
#[derive(Debug)]
pub struct Faults {
    group: &'static str,
    found: Vec<Fault>,
}

impl Faults {
    /// A fault of the setting `name` of the group.
    pub fn add(&mut self, name: &str, message: impl Into<String>) {
        self.found.push(Fault::new(joined(self.group, name), message));
    }

    /// A fault of the setting `name` unless it is fine.
    pub fn check(&mut self, fine: bool, name: &str, message: impl Into<String>) {
        if !fine {
            self.add(name, message);
        }
    }

    /// Faults of other groups.
    pub fn extend(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.found.extend(faults);
    }
}

/// The dotted key of a name in a group.
pub fn joined(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_string() } else { format!("{group}.{name}") }
}

/// The known name that was most likely meant, if one is near: by the last parts of dotted names first, so that a key in
/// the wrong group is recognized, then by the whole names. In a group that is another than the named one it must be
/// nearer. Case, `-` and `_` make no difference.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let cut = |name: &str| -> (String, String) {
        let (group, last) = name.rsplit_once('.').unwrap_or(("", name));
        (group.to_string(), last.to_string())
    };
    let wanted = plain(wanted);
    let (group, last) = cut(&wanted);
    let allowed = (last.chars().count() / 3).max(1);
    let distance = strsim::osa_distance;
    let all = known.into_iter().map(|name| (plain(name), name));
    all.filter_map(|(own, name)| {
        let (own_group, own_last) = cut(&own);
        let near = distance(&own_last, &last);
        let elsewhere = usize::from(own_group != group && !group.is_empty());
        (near + elsewhere <= allowed).then(|| (near, distance(&own, &wanted), name))
    })
    .min()
    .map(|(.., name)| name)
}

/// Declares a group of settings: the struct, its defaults and its table.
///
/// ```text
/// settings! {
///     /// What the group is about.
///     pub struct NoiseConfig at "prepare.noise" {
///         /// What the setting does.
///         pub temperature: f64 = 1.0, used "margin and length" if |c| c.flip_kind.scaled();
///         /// A group within the group has no default of its own.
///         pub rates: RateConfig;
///         // Last, an optional value that is no setting: only a program that uses the library can give it.
///         beside {
///             /// What it is.
///             pub custom: Option<CustomNoise>
///         }
///     }
/// }
/// ```
macro_rules! settings {
    (@default) => { Default::default() };
    (@default $default:expr) => { $default };
    (@used) => { |_| true };
    (@used $config:ident $used:expr) => { |$config| $used };
    (@given $field:ident) => {
        |own, _| {
            let below = $crate::settings::Settings::given(&own.$field);
            below.iter().map(|name| $crate::settings::joined(stringify!($field), name)).collect()
        }
    };
    (@given $field:ident $default:expr) => {
        |own, origin| {
            let given = own.$field != origin.$field;
            given.then(|| stringify!($field).trim_start_matches("r#").to_string()).into_iter().collect()
        }
    };
    (@rows $used_by:ident $field:ident $type:ty, $help:expr) => {
        <$type as $crate::settings::Table>::rows($used_by)
    };
    (@rows $used_by:ident $field:ident $type:ty, $help:expr, $default:expr) => {
        [$crate::settings::SettingRow {
            key: $crate::settings::joined(Self::KEY, stringify!($field).trim_start_matches("r#")),
            help: $help.trim().to_string(),
            used_by: $used_by,
            kind: stringify!($type),
        }]
    };
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident at $key:literal {
            $(
                $(#[doc = $help:literal])*
                pub $field:ident: $type:ty $(= $default:expr)? $(, used $by:literal if |$config:ident| $used:expr)?;
            )*
            $(beside {
                $(#[doc = $beside_about:literal])*
                pub $beside:ident: $beside_type:ty
            })?
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $( $(#[doc = $help])* pub $field: $type, )*
            $(
                $(#[doc = $beside_about])*
                #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
                pub $beside: $beside_type,
            )?
        }

        impl Default for $name {
            fn default() -> $name {
                $name {
                    $( $field: $crate::settings::settings!(@default $($default)?), )*
                    $( $beside: None, )?
                }
            }
        }

        impl $crate::settings::Table for $name {
            const KEY: &'static str = $key;

            fn table() -> Vec<$crate::settings::Setting<$name>> {
                vec![$(
                    $crate::settings::Setting {
                        name: stringify!($field).trim_start_matches("r#"),
                        used_by: concat!($($by)?),
                        used: $crate::settings::settings!(@used $($config $used)?),
                        given: $crate::settings::settings!(@given $field $($default)?),
                        reset: |own, origin| own.$field = origin.$field.clone(),
                    },
                )*]
            }

            fn rows(used_by: &'static str) -> Vec<$crate::settings::SettingRow> {
                let mut rows = Vec::new();
                $({
                    let own = concat!($($by)?);
                    let used_by = if own.is_empty() { used_by } else { own };
                    let row = $crate::settings::settings!(@rows used_by $field $type, concat!($($help),*) $(, $default)?);
                    rows.extend(row);
                })*
                rows
            }
        }
    };
}
pub(crate) use settings;

#[cfg(test)]
mod tests;
