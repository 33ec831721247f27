//! Parts of a model: its tokenizer without the weights.

use super::*;

#[test]
fn a_tokenizer_is_fetched_without_weights() {
    let listed = names(&SHARDED);
    let server = models(&SHARDED, &listed);
    let cache = tempfile::tempdir().unwrap();
    let hub = super::hub(&server, cache.path());
    let tokenizer = |hub: &Hub| hub.fetch_model("org/name", ModelParts::Tokenizer, &Silent);
    let folder = tokenizer(&hub).unwrap();
    assert_eq!(files_below(&folder), ["config.json", "tokenizer.json"]);
    // It is no whole model yet, neither offline nor for a commit whose files are known.
    let offline = Hub { offline: true, ..hub.clone() };
    assert_eq!(tokenizer(&offline).unwrap(), folder);
    assert!(says(model(&offline)).contains("HF_HUB_OFFLINE"));
    assert_eq!(hub.fetch_model(&format!("org/name@{COMMIT}"), ModelParts::All, &Silent).unwrap(), folder);
    assert_eq!(files_below(&folder).len(), listed.len());
    std::fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert!(says(tokenizer(&offline)).contains("HF_HUB_OFFLINE"));
    // Without a tokenizer.json there is none.
    let server = models(&SHARDED, &["config.json", "model.safetensors"]);
    let other = tempfile::tempdir().unwrap();
    assert!(says(tokenizer(&super::hub(&server, other.path()))).contains("holds no tokenizer.json"));
}
