//! Re-makes the committed code in `src/gen` from `protos/*.proto` and fails when it differs.
//! `KEELSON_REGENERATE=1 cargo test -p proto` writes it instead.

use std::{fs, path::Path};

#[test]
fn generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = root.join("protos");
    let mut files: Vec<_> =
        fs::read_dir(&protos).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let descriptors = protox::compile(&files, [&protos]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .unwrap();

    let committed = root.join("src/gen");
    let regenerate = std::env::var_os("KEELSON_REGENERATE").is_some();
    let mut names: Vec<_> = fs::read_dir(out.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let made = fs::read_to_string(out.path().join(&name)).unwrap();
        let path = committed.join(&name);
        if regenerate {
            fs::create_dir_all(&committed).unwrap();
            fs::write(&path, made).unwrap();
        } else {
            assert!(
                fs::read_to_string(&path).unwrap_or_default() == made,
                "{} differs from its .proto files; run KEELSON_REGENERATE=1 cargo test -p proto",
                path.display()
            );
        }
    }
}
