//! What must not be in a shipped binary.

use integration::binary;

/// As in `store::mutant`, which only binaries with that feature have. `make jepsen` looks for it where it must be.
const MUTANT_MARK: &[u8] = b"keelson: this binary can make mistakes";

#[test]
fn what_is_shipped_cannot_be_told_to_make_mistakes() {
    let server = binary::ours().path;
    for name in ["etcd", "etcdctl", "etcdutl"] {
        let path = server.with_file_name(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(bytes.len() > 1 << 20, "{name} is no program of ours");
        let found = bytes.windows(MUTANT_MARK.len()).any(|window| window == MUTANT_MARK);
        assert!(!found, "{name} is built with the feature `mutants`");
    }
}
