use std::path::Path;

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    #[default]
    Dpo,
    SimPo,
    Ipo,
}

settings! {
    /// An objective.
    pub struct Objective at "train.objective" {
        /// Which one.
        pub name: Name = Name::Dpo;
        /// Its strength.
        pub beta: f64 = 0.1, used "dpo and ipo" if |c| c.name != Name::SimPo;
    }
}

impl Settings for Objective {}

settings! {
    /// A run.
    pub struct Train at "train" {
        /// Rate.
        pub lr: f64 = 1e-3;
        /// Pairs.
        pub batch: usize = 4;
        /// Whether the order
        /// is drawn.
        pub shuffle: bool = true;
        /// Where to start.
        pub model: PathText = "tiny".into();
        /// Decays.
        pub betas: Vec<f64> = vec![0.9, 0.999];
        /// Codes.
        pub codes: Vec<usize> = vec![];
        /// The objective.
        pub objective: Objective, used "shuffled runs" if |c| c.shuffle;
    }
}

impl Settings for Train {
    fn judge(&self, faults: &mut Faults) {
        faults.check(self.batch > 0, "batch", "expected at least 1");
        faults.extend(self.objective.faults());
    }
}

settings! {
    /// Everything.
    pub struct Whole at "" {
        /// The seed.
        pub seed: u64 = 0;
        /// The run.
        pub train: Train;
    }
}

impl Root for Whole {}

fn flag(key: &str, name: &str, value: impl Into<toml::Value>) -> Flag {
    Flag { key: key.into(), name: name.into(), value: value.into() }
}

fn with(text: &str, sets: &[&str], flags: &[Flag]) -> Result<Whole> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    resolve(Some(&path), &sets, flags, &|_| None)
}

/// What the user reads, without the temporary folder.
fn complaint(text: &str, sets: &[&str], flags: &[Flag]) -> String {
    let error = with(text, sets, flags).expect_err("must be refused");
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    let words = text.split_inclusive(' ').map(|w| match w.find("recipe.toml") {
        Some(at) => &w[at..],
        None => w,
    });
    words.collect()
}

#[test]
fn precedence_is_defaults_file_sets_flags() {
    assert_eq!(with("", &[], &[]).unwrap(), Whole::default());
    let file = "seed = 1\n[train]\nlr = 1\nbatch = 2\nmodel = 'a'\n";
    let got = with(file, &["train.batch=3", "train.model = b"], &[flag("train.model", "--model", "c")]).unwrap();
    assert_eq!((got.seed, got.train.lr, got.train.batch), (1, 1.0, 3));
    assert_eq!(got.train.model, "c");
    assert_eq!(got.train.objective, Objective::default());
}

#[test]
fn set_values_are_toml_and_bare_words_are_strings() {
    let sets = ["train.codes=[1, 2]", "train.betas=[1, 0.5]", "train.objective.name=ipo", "train.model=2024"];
    let got = with("", &sets, &[]).unwrap().train;
    assert_eq!((got.codes, got.betas), (vec![1, 2], vec![1.0, 0.5]));
    assert_eq!((got.objective.name, got.model.as_str()), (Name::Ipo, "2024"));
    let got = with("", &["train.model=\"a=b.c\"", "train.shuffle=false"], &[]).unwrap().train;
    assert_eq!((got.model.as_str(), got.shuffle), ("a=b.c", false));
}

#[test]
fn every_fault_at_once_with_place_and_suggestion() {
    let file = "\
sed = 3

[train]
lr = \"fast\"
batch = 2.0
epochs = 3
betas = [0.9, 'x']
codes = [1, -2]

[train.objective]
name = \"sim-op\"

[trian]
x = 1
";
    let sets =
        ["train.beta=0.2", "train.batch", "train.objective=dpo", "train.codes=4", "train.lr=nan", "train.betas=[a]"];
    insta::assert_snapshot!(complaint(file, &sets, &[flag("train.batch", "--batch", -1), flag("train.bacth", "--bacth", 1)]), @r#"
    16 faults in the configuration
      recipe.toml:1:1: sed: unknown key; did you mean `seed`?
      recipe.toml:4:1: train.lr: expected a number, got the string "fast"
      recipe.toml:5:1: train.batch: expected an integer, got 2.0; write 2
      recipe.toml:6:1: train.epochs: unknown key; known here: batch, betas, codes, lr, model, objective, shuffle
      recipe.toml:7:1: train.betas: item 2: expected a number, got the string "x"
      recipe.toml:8:1: train.codes: expected every item to be an integer of 0 or more, got the list [1, -2]
      recipe.toml:11:1: train.objective.name: unknown value `sim-op`; expected one of: dpo, sim-po, ipo; did you mean `sim-po`?
      recipe.toml:13:2: trian: unknown key; did you mean `train`?
      --set: train.batch: expected KEY=VALUE, for example train.batch=8
      --set: train.betas: not a valid TOML value `[a]`: string values must be quoted, expected literal string; words in a list need quotes: ["a", "b"]
      --set: train.beta: unknown key; did you mean `train.objective.beta`?
      --set: train.objective: a group of settings, not one value; its keys: beta, name
      --set: train.codes: expected a list, got 4; write [4]
      --set: train.lr: expected a finite number, got NaN
      flag --batch: train.batch: expected an integer of 0 or more, got -1
      flag --bacth: train.bacth: unknown key; did you mean `train.batch`?
    "#);
}

#[test]
fn one_fault_is_one_line() {
    insta::assert_snapshot!(complaint("[train]\nlr = 1\nlr = 2\n", &[], &[]), @"recipe.toml:3:1: not valid TOML: duplicate key");
    insta::assert_snapshot!(complaint("seed = \n", &[], &[]), @"recipe.toml:1:8: not valid TOML: string values must be quoted, expected literal string");
    insta::assert_snapshot!(complaint("seed = 99999999999999999999\n", &[], &[]), @"recipe.toml:1:8: the integer 99999999999999999999 is too large");
    insta::assert_snapshot!(complaint("train = 3\n", &[], &[]), @"recipe.toml:1:1: train: a group of settings, not one value; its keys: batch, betas, codes, lr, model, objective, shuffle");
    insta::assert_snapshot!(complaint("", &["train.lr=1", "train.lr=2"], &[]), @"--set: train.lr: given more than once: only one would have an effect");
    insta::assert_snapshot!(complaint("", &["train.lr.x=1"], &[]), @"--set: train.lr.x: unknown key: `train.lr` is one value, not a group");
    insta::assert_snapshot!(complaint("", &["zebra=1"], &[]), @"--set: zebra: unknown key; known here: seed, train");
}

#[test]
fn what_has_no_effect_is_refused_of_the_command_line_alone() {
    let idle = |group: &str| (group == "train").then(|| "has no effect on `list`".to_string());
    let with = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        resolve::<Whole>(None, &sets, &[flag("train.lr", "--lr", 1.0)], &idle)
    };
    assert_eq!(with(&["seed=3"]).unwrap().train.lr, 1.0);
    let one = |key: &str| (key == "train.batch").then(|| "has no effect on `one`".to_string());
    for (set, fault) in [
        ("train.batch=16", "--set: train.batch: has no effect on `one`"),
        ("train={batch = 16, lr = 2}", "--set: train.batch: has no effect on `one`"),
        ("batc=16", "--set: batc: unknown key; `train.batch` has no effect on `one`"),
    ] {
        assert_eq!(resolve::<Whole>(None, &[set.into()], &[], &one).unwrap_err().to_string(), fault);
    }
    assert_eq!(resolve::<Whole>(None, &["train.lr=2".into()], &[], &one).unwrap().train.lr, 2.0);
    let sets = ["train.batch=16", "train={batch = 16}", "batch=16", "sed=3", "zebra=1"];
    insta::assert_snapshot!(with(&sets).unwrap_err().to_string(), @r"
    5 faults in the configuration
      --set: train.batch: has no effect on `list`
      --set: train: has no effect on `list`
      --set: batch: unknown key; `train.batch` has no effect on `list`
      --set: sed: unknown key; did you mean `seed`?
      --set: zebra: unknown key; known here: seed
    ");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, "[train]\nbatch = 16\n").unwrap();
    assert_eq!(resolve::<Whole>(Some(&path), &[], &[], &idle).unwrap().train.batch, 16);
}

#[test]
fn a_missing_recipe_is_a_configuration_fault() {
    let error = resolve::<Whole>(Some(Path::new("no/such.toml")), &[], &[], &|_| None).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().starts_with("no/such.toml: cannot read the recipe"), "{error}");
}

#[test]
fn what_is_written_resolves_to_itself() {
    let whole = with("seed = 7\n[train]\ncodes = [3]\n", &[], &[]).unwrap();
    let text = to_toml(&whole).unwrap();
    assert_eq!(with(&text, &[], &[]).unwrap(), whole);
    assert!(text.starts_with("seed = 7\n"), "{text}");
}

#[test]
fn a_tilde_is_the_home_folder_at_the_beginning_of_a_path() {
    let at = |text: &str| resolve::with_home(text.into(), "/h");
    assert_eq!(at("~/x"), "/h/x".into());
    assert_eq!(at("~"), "/h".into());
    for same in ["~x", "x/~", "a~", ""] {
        assert_eq!(at(same), same.into());
    }
    let list = vec![toml::Value::from("~/a"), "b".into()];
    assert_eq!(at("mine=~/a"), toml::Value::from("mine=/h/a"));
    assert_eq!(resolve::with_home(list.into(), "/h"), vec![toml::Value::from("/h/a"), "b".into()].into());
}

#[test]
fn rows_say_what_the_structs_do() {
    let rows = Whole::rows("");
    let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
    let of_train = ["lr", "batch", "shuffle", "model", "betas", "codes", "objective.name", "objective.beta"];
    let of_train = of_train.map(|name| format!("train.{name}"));
    assert_eq!(keys, [&["seed".to_string()][..], &of_train].concat());
    let row = |key: &str| rows.iter().find(|row| row.key == key).unwrap();
    assert_eq!(row("train.shuffle").help, "Whether the order is drawn.");
    assert_eq!((row("train.model").kind, row("train.betas").kind), ("PathText", "Vec<f64>"));
    assert_eq!(row("train.objective.name").used_by, "shuffled runs");
    assert_eq!(row("train.objective.beta").used_by, "dpo and ipo");
}

#[test]
fn settings_without_effect_are_told_and_can_be_left_out() {
    let objective = Objective { name: Name::SimPo, beta: 0.3 };
    let said = |faults: Vec<Fault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
    let without = "has no effect without";
    assert_eq!(said(objective.faults()), [format!("train.objective.beta: {without} dpo and ipo")]);
    assert_eq!(objective.applicable(), Objective { name: Name::SimPo, beta: 0.1 });
    let train = Train {
        shuffle: false,
        batch: 0,
        objective: Objective { beta: 0.2, ..Objective::default() },
        ..Train::default()
    };
    assert_eq!(train.given(), ["batch", "shuffle", "objective.beta"]);
    let faults = [format!("train.objective.beta: {without} shuffled runs"), "train.batch: expected at least 1".into()];
    assert_eq!(said(train.faults()), faults);
    assert_eq!(train.applicable().objective, Objective::default());
    assert!(train.check().is_err() && Train::default().check().is_ok());
}

#[test]
fn what_was_meant_in_another_group_must_be_nearer() {
    assert_eq!(nearest("prepare.pairs.mode", ["generate.code", "prepare.pairs.rule"]), None);
    assert_eq!(nearest("generate.mode", ["generate.code"]), Some("generate.code"));
    assert_eq!(nearest("train.beta", ["train.lr", "train.objective.beta"]), Some("train.objective.beta"));
    assert_eq!(nearest("train.warmups", ["train.lpc.warmup", "train.warmup"]), Some("train.warmup"));
}
