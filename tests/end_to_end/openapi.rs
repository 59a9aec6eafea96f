//! The OpenAPI document is exact: requests made from it find no answer that it does not describe. `tests/clients/fuzz.py`
//! does the same for longer. Leaves the document's making to the server.

use crate::clients::{has_package, python, run};
use crate::harness::Server;

#[tokio::test]
async fn requests_made_from_the_document_find_only_what_it_describes() {
    if !has_package(&python(), "schemathesis") {
        return;
    }
    let server = Server::demo().await;
    let (ok, out) = run(&python(), "fuzz.py", &[&server.url, "4"], &[]);
    assert!(ok, "{}\n{}", &out[out.len().saturating_sub(6000)..], server.log());
    assert!(out.contains("Tested"), "{out}");
}
