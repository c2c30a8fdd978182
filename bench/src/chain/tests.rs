use super::*;
use strata_tests::image::Tool;

fn built(directory: &Path) -> Chain {
    let shape = Shape {
        size: 768 << 20,
        layers: vec![64, 32, 16],
        run: 4,
    };
    Chain::build(directory, &shape).unwrap()
}

#[test]
fn qemu_finds_no_error_and_reads_what_was_meant() {
    let directory = tempfile::tempdir().unwrap();
    let chain = built(directory.path());
    for file in &chain.files {
        assert_eq!(Tool::QemuImg.check(file).unwrap(), 0);
    }
    let raw = directory.path().join("raw");
    let names = [chain.top(), &raw].map(|path| path.to_str().unwrap());
    let convert = ["convert", "-f", "qcow2", "-O", "raw", names[0], names[1]];
    Tool::QemuImg.run(&convert).unwrap();
    verify_raw(&raw, &chain.model).unwrap();
    verify(chain.top(), &chain.model).unwrap();
}

#[test]
fn one_wrong_byte_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let chain = built(directory.path());
    let base = File::options().write(true).open(&chain.files[0]).unwrap();
    let last = base.metadata().unwrap().len() - 1;
    base.write_all_at(&[0xa5], last).unwrap();
    verify(chain.top(), &chain.model).unwrap_err();
}

#[test]
fn a_block_that_was_not_written_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let mut chain = built(directory.path());
    chain.model.write_block(1000, crate::model::LOAD);
    verify(chain.top(), &chain.model).unwrap_err();
}
