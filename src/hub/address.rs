//! Configuration of the access to a hub: address, cache, token, timeouts.

use std::path::PathBuf;
use std::time::Duration;

/// Configuration of the access to one hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hub {
    /// Base address.
    pub endpoint: String,
    /// Cache folder, in the layout of `huggingface_hub`.
    pub cache: PathBuf,
    /// Access token; none is sent where it is empty.
    pub token: String,
    /// Whether only the cache is used, without any request.
    pub offline: bool,
    /// Timeouts and retries of requests.
    pub patience: Patience,
}

/// Timeouts and retries of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Longest wait for a connection. Default: 10 s.
    pub connect: Duration,
    /// Longest wait for the next bytes of an answer. Default: 20 s.
    pub silence: Duration,
    /// Retries after a failure that may be temporary (429, 5xx, timeouts, broken transfers). Default: 3.
    pub retries: usize,
    /// Pause before the first retry; it doubles with each one. Default: 300 ms.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(20),
            retries: 3,
            pause: Duration::from_millis(300),
        }
    }
}

impl Hub {
    /// Reads the configuration from environment variables.
    pub fn from_env() -> Hub {
        Hub::from_vars(&|name| std::env::var(name).ok())
    }

    /// As [`Hub::from_env`]; `var` gives the value of a variable.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<String>) -> Hub {
        let var = |name: &str| var(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let on = |v: String| !matches!(v.to_ascii_lowercase().as_str(), "0" | "false" | "no" | "off");
        let cache_home = || var("XDG_CACHE_HOME").map(PathBuf::from);
        let user = || PathBuf::from(var("HOME").unwrap_or_else(|| ".".into())).join(".cache");
        let home = var("HF_HOME").map(PathBuf::from);
        let home = home.unwrap_or_else(|| cache_home().unwrap_or_else(user).join("huggingface"));
        let cache = var("HF_HUB_CACHE").or_else(|| var("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let from_file = || {
            let path = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
            std::fs::read_to_string(path).ok().map(|text| text.trim().to_string())
        };
        let implicit = !var("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(on);
        let token = if implicit { var("HF_TOKEN").or_else(from_file) } else { None };
        Hub {
            endpoint: var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token: token.unwrap_or_default(),
            offline: var("HF_HUB_OFFLINE").is_some_and(on),
            patience: Patience::default(),
        }
    }
}
