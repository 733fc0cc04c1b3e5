//! What must not be in a shipped binary.

use integration::binary;

/// As `store::mutant::MARK`, which only binaries with that feature have.
const MUTANT_MARK: &[u8] = b"keelson: this binary can make mistakes";

#[test]
fn the_server_cannot_be_told_to_make_mistakes() {
    let bytes = std::fs::read(&binary::ours().path).expect("the server that is tested");
    assert!(bytes.len() > 1 << 20, "not a server");
    let found = bytes.windows(MUTANT_MARK.len()).any(|window| window == MUTANT_MARK);
    assert!(!found, "built with the feature `mutants`");
}
