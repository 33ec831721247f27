use super::*;

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Name {
    #[default]
    Dpo,
    SimPo,
    Ipo,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Objective {
    name: Name,
    beta: f64,
}

impl Default for Objective {
    fn default() -> Self {
        Objective { name: Name::Dpo, beta: 0.1 }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Train {
    lr: f64,
    batch: usize,
    shuffle: bool,
    model: String,
    betas: Vec<f64>,
    codes: Vec<usize>,
    objective: Objective,
}

impl Default for Train {
    fn default() -> Self {
        Train {
            lr: 1e-3,
            batch: 4,
            shuffle: true,
            model: "tiny".into(),
            betas: vec![0.9, 0.999],
            codes: vec![],
            objective: Objective::default(),
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Whole {
    seed: u64,
    train: Train,
}

fn with(text: &str, sets: &[&str], flags: &str) -> Result<Whole> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    let sets: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
    resolve(Some(&path), &sets, &flags.parse().unwrap())
}

/// What the user reads, without the temporary folder.
fn complaint(text: &str, sets: &[&str], flags: &str) -> String {
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
    assert_eq!(with("", &[], "").unwrap(), Whole::default());
    let file = "seed = 1\n[train]\nlr = 1\nbatch = 2\nmodel = 'a'\n";
    let got = with(file, &["train.batch=3", "train.model = b"], "[train]\nmodel = 'c'").unwrap();
    assert_eq!((got.seed, got.train.lr, got.train.batch), (1, 1.0, 3));
    assert_eq!(got.train.model, "c");
    assert_eq!(got.train.objective, Objective::default());
}

#[test]
fn set_values_are_toml_and_bare_words_are_strings() {
    let sets = ["train.codes=[1, 2]", "train.betas=[1, 0.5]", "train.objective.name=ipo", "train.model=2024"];
    let got = with("", &sets, "").unwrap().train;
    assert_eq!((got.codes, got.betas), (vec![1, 2], vec![1.0, 0.5]));
    assert_eq!((got.objective.name, got.model.as_str()), (Name::Ipo, "2024"));
    let got = with("", &["train.model=\"a=b.c\"", "train.shuffle=false"], "").unwrap().train;
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
    insta::assert_snapshot!(complaint(file, &sets, "[train]\nbatch = -1\nbacth = 1"), @r#"
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
      flag --bacth: train.bacth: unknown key; did you mean `train.batch`?
      flag --batch: train.batch: expected an integer of 0 or more, got -1
    "#);
}

#[test]
fn one_fault_is_one_line() {
    insta::assert_snapshot!(complaint("[train]\nlr = 1\nlr = 2\n", &[], ""), @"recipe.toml:3:1: not valid TOML: duplicate key");
    insta::assert_snapshot!(complaint("seed = \n", &[], ""), @"recipe.toml:1:8: not valid TOML: string values must be quoted, expected literal string");
    insta::assert_snapshot!(complaint("seed = 99999999999999999999\n", &[], ""), @"recipe.toml:1:8: the integer 99999999999999999999 is too large");
    insta::assert_snapshot!(complaint("train = 3\n", &[], ""), @"recipe.toml:1:1: train: a group of settings, not one value; its keys: batch, betas, codes, lr, model, objective, shuffle");
    insta::assert_snapshot!(complaint("", &["train.lr=1", "train.lr=2"], ""), @"--set: train.lr: given more than once: only one would have an effect");
    insta::assert_snapshot!(complaint("", &["train.lr.x=1"], ""), @"--set: train.lr.x: unknown key: `train.lr` is one value, not a group");
    insta::assert_snapshot!(complaint("", &["zebra=1"], ""), @"--set: zebra: unknown key; known here: seed, train");
}

#[test]
fn a_missing_recipe_is_a_configuration_fault() {
    let error = resolve::<Whole>(Some(Path::new("no/such.toml")), &[], &toml::Table::new()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().starts_with("no/such.toml: cannot read the recipe"), "{error}");
}

#[test]
fn flags_can_be_named_as_typed() {
    let names = FlagNames::from([("train.lr".to_string(), "--learning-rate".to_string())]);
    let flags = "[train]\nlr = 'x'".parse().unwrap();
    let error = resolve_named::<Whole>(None, &[], &flags, &names).unwrap_err();
    assert_eq!(error.to_string(), "flag --learning-rate: train.lr: expected a number, got the string \"x\"");
}

#[test]
fn what_is_written_resolves_to_itself() {
    let whole = with("seed = 7\n[train]\ncodes = [3]\n", &[], "").unwrap();
    let text = to_toml(&whole).unwrap();
    assert_eq!(with(&text, &[], "").unwrap(), whole);
    assert!(text.starts_with("seed = 7\n"), "{text}");
}

#[test]
fn every_recipe_of_the_repository_resolves() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let mut n = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let recipe: Recipe = resolve(Some(&path), &[], &toml::Table::new()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(recipe.sweep.validate(), vec![], "{}", path.display());
            n += 1;
        }
    }
    assert!(n >= 5, "only {n} recipes");
}
