//! Check without a compiler that the committed PTX belongs to the committed sources.

use std::path::Path;

use ptx_build::source::{orphans, recorded, sources};
use ptx_build::{project_root, read};

#[test]
fn recorded_hashes_are_those_of_the_sources() {
    let root = project_root(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
    let sources = sources(&root).unwrap();
    assert!(!sources.is_empty(), "no .cu below kernels/src");
    for source in &sources {
        let ptx = read(&source.ptx(&root)).unwrap();
        assert_eq!(
            recorded(&ptx),
            Some(source.hash),
            "{} or a header of it changed: run `cargo run -p ptx-build`",
            source.name
        );
    }
    assert_eq!(orphans(&root, &sources).unwrap(), Vec::<std::path::PathBuf>::new());
}
