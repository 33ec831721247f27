//! The flags that set a key of the recipe.
//!
//! The id of each is the key. Values are checked where the recipe is resolved, so that flags, `--set` and
//! files are judged alike and all faults appear at once.

use clap::builder::{BoolValueParser, StringValueParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::{Table, Value};

use crate::error::Error;
use crate::pipeline::recipe::Recipe;
use crate::settings::Flag;

/// Key, flag with the name of its value, help; in the order of the help. After a value, `...` takes more of them and
/// `,...` takes more with commas between them. The first part of a key is the command, for `sweep` it is `noise-sweep`.
pub const FLAGS: [(&str, &str, &str); 111] = [
    ("seed", "--seed N", "Seed of every random decision [default: 0]"),
    ("threads", "--threads N", "Worker threads [default: all cores]"),
    ("demo.out", "--out DIR", "Folder for everything [default: runs/demo]"),
    ("synth.out", "--out DIR", "Folder to write"),
    ("synth.rows", "--rows N", "Prompts"),
    ("synth.factors", "--factors F", "Planted style factors, 2 to 8; over real texts the traits that decide, 1 to 10"),
    (
        "synth.over",
        "--over PATH...",
        "Plants over the real prompts and responses of these files, folders or hub addresses",
    ),
    (
        "synth.traits",
        "--traits NAME,...",
        "Over real texts: what decides, of length, lists, hedges, address, figures, first-person, markup, \
         sentences, exclamations, questions; or aspects (all that are rated), or helpfulness, honesty, \
         instruction-following, truthfulness",
    ),
    (
        "synth.judgements",
        "--judgements N",
        "Over real texts: judgements of each prompt, each by another preference, all but the first asked for",
    ),
    ("synth.format", "--format NAME", "Over real texts: their layout, as for prepare"),
    (
        "synth.columns",
        "--columns TARGET=COLUMN...",
        "Over real texts: columns under other names than a layout has, as for prepare",
    ),
    (
        "synth.on_bad_row",
        "--on-bad-row fail|skip",
        "Over real texts: what to do with a row that cannot be read: fail or skip",
    ),
    ("prepare.input", "--input PATH...", "Files, folders, or hf://datasets/ORG/NAME[@rev][/file]"),
    (
        "prepare.ingest.format",
        "--format NAME",
        "Layout: auto, ultrafeedback, binarized, argilla, trl, hh-rlhf, helpsteer2, helpsteer3, mixture (tulu3, \
         skywork), orca, alpaca, sharegpt, nemo-rl",
    ),
    (
        "prepare.ingest.columns",
        "--columns TARGET=COLUMN...",
        "Columns under other names than a layout has: prompt=question chosen=answers.good",
    ),
    (
        "prepare.ingest.ignore_keys",
        "--ignore-keys KEY...",
        "Keys of messages, and columns, that are left unread although they may be part of what was said",
    ),
    (
        "prepare.mix",
        "--mix ENTRY",
        "How much of an input goes in: 'PATTERN: weight=0.5, cap=1000, source=TAG, format=NAME' (repeatable)",
    ),
    ("prepare.sources.tag", "--source TAG", "Source tag for all rows"),
    (
        "prepare.sources.rules",
        "--source-rule RULE",
        "Source tag by rule: TAG=prefix:TEXT, TAG=contains:TEXT or TAG=file:GLOB (repeatable)",
    ),
    (
        "prepare.sources.join",
        "--join-source PATH...",
        "Preference data of any layout whose rows have a source, for rows without one that have the same prompt",
    ),
    (
        "prepare.sources.keep",
        "--keep-source TAG",
        "Keeps a source that is left out by default, because it is used for evaluation (repeatable)",
    ),
    (
        "prepare.pairs.decontaminate",
        "--decontaminate FILE...",
        "Benchmark files whose questions must not be in the data",
    ),
    (
        "prepare.pairs.near_duplicates",
        "--near-duplicates T",
        "Of prompts that are at least so similar only one stays: 0.5 to 1, or 0 for off",
    ),
    (
        "prepare.tokenizer",
        "--tokenizer MODEL",
        "Model whose tokenizer and chat template are used: folder, .gguf, hub id, or tiny",
    ),
    (
        "prepare.tokenize.template",
        "--template NAME",
        "Chat template: auto, chatml, llama3, mistral, zephyr, or a .jinja file",
    ),
    ("prepare.out", "--out DIR", "Folder to write"),
    ("prepare.pairs.rule", "--pairs RULE", "Pair rule: best-vs-random, best-vs-worst, best-vs-each, all-pairs"),
    ("prepare.pairs.min_margin", "--min-margin X", "Least difference of the two scores"),
    ("prepare.pairs.max_per_prompt", "--max-per-prompt N", "Most pairs of one prompt; 0 for all"),
    ("prepare.noise.flip_rate", "--flip-rate R", "Share of labels to flip, 0 to 1"),
    (
        "prepare.noise.flip_kind",
        "--flip-kind KIND",
        "Noise model: uniform, margin, length, source, annotator, column, ambiguous, weak-quality",
    ),
    (
        "prepare.noise.temperature",
        "--flip-temperature T",
        "Temperature of the kinds margin (score units) and length (log ratio)",
    ),
    (
        "prepare.noise.flip_marker",
        "--flip-marker TEXT",
        "Text appended to the prompts of flipped rows (the paper: [FLIP])",
    ),
    (
        "prepare.pairs.splits",
        "--splits files|prompts",
        "Splits from the names of files (train-*, test-*) where they say them, or by prompt: files, prompts",
    ),
    ("prepare.pairs.test_fraction", "--test-fraction F", "Share of the prompts for the test split"),
    ("prepare.tokenize.max_length", "--max-length N", "Longest prompt and response together, tokens"),
    ("prepare.tokenize.max_prompt_length", "--max-prompt-length N", "Longest prompt, tokens"),
    ("prepare.ingest.on_bad_row", "--on-bad-row fail|skip", "What to do with a row that cannot be used: fail or skip"),
    ("prepare.shard", "--shard I/N", "Only the I-th of N parts of the prompts"),
    ("prepare.dry_run", "--dry-run", "Counts and shows one example; writes nothing"),
    ("score.data", "--data DIR", "Prepared folder"),
    ("score.model", "--model MODEL", "Folder (of a PEFT adapter too), .gguf, hub id, or tiny[:WxL]"),
    ("score.out", "--out FILE.parquet", "Parquet file to write"),
    ("train.data", "--data DIR", "Prepared folder"),
    (
        "train.model",
        "--model MODEL",
        "Model to start from: folder (of a PEFT adapter too), .gguf, hub id, or tiny[:WxL]",
    ),
    ("train.out", "--out DIR", "Run folder to write"),
    (
        "train.reference",
        "--reference MODEL",
        "Reference policy, or FILE.parquet of its log-probabilities by `score` [default: the model that is trained]",
    ),
    (
        "train.objective.name",
        "--objective OBJECTIVE",
        "Objective: dpo, cdpo, rdpo, drdpo, ropo, hoelder, repo, mix, ipo, simpo, sft",
    ),
    (
        "train.lpc.latent",
        "--latent LATENT",
        "Latent: auto (lpc, for sft none), none, lpc, lpc-hard, lpc-reliable, gaussian, mlp, bias, noise",
    ),
    ("train.lpc.codes", "--codes K", "Number of codes K; gaussian and mlp are as large as lpc with K codes"),
    (
        "train.tune",
        "--tune TUNE",
        "What is trained: full, lora (an adapter), head (the output layer) or latent (codes and prior alone), \
         both over hidden states computed once",
    ),
    ("train.lora.rank", "--lora-rank R", "Rank of the adapter [default: 16]"),
    ("train.lora.alpha", "--lora-alpha X", "Scale of the adapter, over its rank [default: twice the rank]"),
    (
        "train.lora.targets",
        "--lora-targets NAME,...",
        "Layers to adapt: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, all-linear [default: \
         all-linear]",
    ),
    ("train.precision", "--precision PRECISION", "Operands of the matrix products: auto, f32, bf16"),
    ("train.batch", "--batch PAIRS", "Pairs in one pass"),
    ("train.accumulate", "--accumulate N", "Passes added up to one step"),
    ("train.epochs", "--epochs X", "Passes over the data; may be a fraction"),
    ("train.max_steps", "--max-steps N", "Stop after this many steps; the schedules still run over the epochs"),
    ("train.lr", "--lr X", "Peak learning rate of the backbone"),
    ("train.objective.beta", "--beta X", "Strength of the reference"),
    (
        "train.validation.fraction",
        "--validation SHARE",
        "Share of the training prompts to hold out; the parameters that do best on them are kept [default: 0]",
    ),
    ("train.device", "--device NAME", "Where the model computes: auto, cpu, cuda, metal"),
    (
        "train.posteriors",
        "--posteriors all|test",
        "Pairs in posteriors.parquet: all, or test (a short run then computes no others but those of its steps)",
    ),
    (
        "train.keep_optimizer_state",
        "--keep-optimizer",
        "Keeps the optimizer's moments when the run is finished, so that it can go on with more --max-steps",
    ),
    ("generate.model", "--model MODEL", "Run folder or model that answers"),
    ("generate.prompt", "--prompt TEXT", "A prompt (repeatable)"),
    (
        "generate.prompts",
        "--prompts FILE",
        "File of prompts: rows with instruction, prompt, question or messages, or a .txt file with one a line",
    ),
    ("generate.out", "--out FILE.jsonl", "File to write, one answer a line; without it the answers are printed"),
    ("generate.code", "--code K", "Answers with this code in place of the prior's mixture"),
    ("generate.all_codes", "--all-codes", "Answers with the prior's mixture and with every code"),
    ("generate.raw", "--raw", "Prompts go in as they are, without the chat template"),
    ("generate.template", "--template NAME", "Chat template, as for prepare"),
    ("generate.tokenizer", "--tokenizer MODEL", "Another model's tokenizer and chat template"),
    ("generate.max_new_tokens", "--max-new-tokens N", "Most tokens of an answer"),
    ("generate.temperature", "--temperature T", "Divides the logits before a token is drawn; 0 = the likeliest token"),
    ("generate.top_p", "--top-p P", "Draws from the fewest likeliest tokens whose probabilities sum to this"),
    ("generate.batch", "--batch N", "Prompts that are answered together; it does not change the answers"),
    ("generate.precision", "--precision f32|bf16", "Operands of the products with weights"),
    ("generate.generator", "--generator NAME", "Name of the model in the output"),
    ("eval.model", "--model MODEL", "Run folder or model to evaluate"),
    (
        "eval.task",
        "--task NAME,...",
        "Tasks: preference, arc_easy, arc_challenge, truthfulqa_mc1, truthfulqa_mc2, gsm8k, rewardbench",
    ),
    (
        "eval.data",
        "--data [NAME=]PATH",
        "Data of the tasks in their order; one for all tasks, or several for one: a file, a folder, hf://... (repeatable)",
    ),
    ("eval.limit", "--limit N", "Items of each task, from the first on [default: all]"),
    ("eval.out", "--out DIR", "Folder to write"),
    ("eval.tokenizer", "--tokenizer MODEL", "Another model's tokenizer"),
    ("eval.shots", "--shots N", "For gsm8k: worked examples before each problem [default: 5]"),
    ("eval.examples", "--examples FILE", "For gsm8k: problems from which the examples are drawn; else the data's own"),
    ("eval.batch", "--batch N", "For gsm8k: problems that are answered together"),
    (
        "eval.reward",
        "--reward implicit|implicit-mean|sum|mean",
        "For preference and rewardbench: what ranks two responses",
    ),
    ("eval.reference", "--reference MODEL", "Reference of the implicit reward; else that of the run"),
    (
        "eval.split",
        "--split train|test",
        "For preference: split of a prepared folder, or of files named after splits [default: test]",
    ),
    ("eval.against", "--against DIR", "An earlier evaluation of another model: tells the paired differences"),
    ("eval.precision", "--precision f32|bf16", "Operands of the products with weights"),
    ("export.run", "--run DIR", "Run folder"),
    ("export.out", "--out DIR", "Folder to write"),
    (
        "export.as",
        "--as hf|peft",
        "Form: hf (a Hugging Face folder, an adapter merged into its base) or peft (the adapter)",
    ),
    (
        "export.dtype",
        "--dtype TYPE",
        "Type of the weights: f32, bf16, f16, base (that of the model that training started from)",
    ),
    ("audit.run", "--run DIR", "Run folder whose training pairs are audited"),
    ("audit.out", "--out DIR", "Folder to write"),
    (
        "audit.ranker",
        "--ranker latent|run",
        "Model that ranks pairs that it was not trained on: latent (codes over the frozen base, with a learned flip \
         rate) or run (the settings of the run)",
    ),
    ("audit.folds", "--folds N", "Parts of the prompts, each ranked by a model trained on the others"),
    ("audit.repeats", "--repeats N", "Times that all pairs are ranked, with other parts and another seed"),
    (
        "audit.action",
        "--action ACTION",
        "With labels that are thought wrong: none, drop, flip, weight (each pair by 1 - p_wrong), review (a table for a \
         person)",
    ),
    ("audit.threshold", "--threshold P", "Probability above which a label is thought wrong"),
    ("audit.verdicts", "--verdicts FILE.csv", "A table of an earlier `--action review`, with a person's verdicts"),
    (
        "report.projection",
        "--projection tsne|pca|none",
        "How a run's posteriors are laid out in the plane: tsne (with its principal components), pca, none",
    ),
    ("report.points", "--points N", "Pairs that are laid out, at most 5000; time grows with their square"),
    ("sweep.out", "--out DIR", "Sweep folder"),
    ("sweep.jobs", "--jobs N", "Cells trained at once"),
    (
        "sweep.dry_run",
        "--dry-run",
        "Lists the cells with the time and memory of each; trains nothing. With a launcher: writes the scripts alone",
    ),
];

/// The command `name` with its flags; "" is the program, with the flags of all commands.
pub fn add(command: Command, name: &str) -> Command {
    let own = |key: &str| match key.split_once('.') {
        Some(("sweep", _)) => name == "noise-sweep",
        Some((group, _)) => name == group,
        None => name.is_empty(),
    };
    let defaults = defaults();
    FLAGS.iter().filter(|(key, ..)| own(key)).enumerate().fold(command, |command, (at, (key, flag, help))| {
        let arg = argument(flag, at_key(&defaults, key)).id(*key).help(*help);
        // Flags of all commands come after --config and --set.
        command.arg(if name.is_empty() { arg.global(true).display_order(at + 2) } else { arg.display_order(at) })
    })
}

fn argument(flag: &'static str, default: Option<&Value>) -> Arg {
    let (long, value) = flag.split_once(' ').unwrap_or((flag, ""));
    let name = value.trim_end_matches("...").trim_end_matches(',');
    let arg = Arg::new(long).long(long.trim_start_matches('-'));
    let text = StringValueParser::new().map(Value::String);
    match default {
        Some(Value::Boolean(_)) => {
            arg.action(ArgAction::SetTrue).value_parser(BoolValueParser::new().map(Value::Boolean))
        }
        Some(Value::Integer(_)) => arg.value_name(name).value_parser(|text: &str| text.parse::<u64>().map(integer)),
        Some(Value::Float(_)) => arg
            .value_name(name)
            .allow_negative_numbers(true)
            .value_parser(|text: &str| text.parse::<f64>().map(Value::Float)),
        Some(Value::Array(_)) => {
            let arg = arg.value_name(name).action(ArgAction::Append).value_parser(text);
            let arg = if value.ends_with("...") { arg.num_args(1..) } else { arg };
            if value.ends_with(",...") { arg.value_delimiter(',') } else { arg }
        }
        _ => arg.value_name(name).value_parser(text),
    }
}

/// TOML's integers are signed; a larger one is refused by the recipe as a string.
fn integer(n: u64) -> Value {
    i64::try_from(n).map_or_else(|_| Value::String(n.to_string()), Value::Integer)
}

/// The default recipe.
pub fn defaults() -> Value {
    Value::try_from(Recipe::default()).unwrap_or_else(|_| Value::Table(Table::new()))
}

/// The value at a dotted key.
pub fn at_key<'a>(defaults: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(defaults, |value, part| value.get(part))
}

/// The flags that were given.
pub fn given(matches: &ArgMatches) -> Vec<Flag> {
    let defaults = defaults();
    let read = |(key, flag, _): &(&str, &str, &str)| {
        let mut values = matches.try_get_many::<Value>(key).ok()??.cloned();
        if matches.value_source(key) != Some(ValueSource::CommandLine) {
            return None;
        }
        let value = match at_key(&defaults, key) {
            Some(Value::Array(_)) => Value::Array(values.collect()),
            _ => values.next()?,
        };
        let name = flag.split(' ').next().unwrap_or(flag).to_string();
        Some(Flag { key: (*key).to_string(), name, value })
    };
    FLAGS.iter().filter_map(read).collect()
}

/// The same error with the flags that were given beside the keys at fault.
pub fn named(error: Error, flags: &[Flag]) -> Error {
    let Error::Config(mut faults) = error else { return error };
    for fault in faults.iter_mut().filter(|fault| fault.origin.is_empty()) {
        if let Some(flag) = flags.iter().find(|flag| flag.key == fault.key) {
            fault.origin = format!("flag {}", flag.name);
        }
    }
    Error::Config(faults)
}
