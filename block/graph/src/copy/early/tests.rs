use std::rc::Rc;

use strata_exec::Executor;
use strata_storage::{FileStorage, Storage};

use super::{EarlyWriteBack, PORTION};

#[test]
fn the_host_is_asked_for_each_portion_and_once_at_a_time() {
    let exec = Executor::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = FileStorage::create(&exec, &directory.path().join("target")).unwrap();
    let early = Rc::new(EarlyWriteBack::new(&exec, Storage::File(Rc::new(file))));
    early.wrote(PORTION - 1);
    assert!(early.asking.is_empty());
    early.wrote(1);
    assert_eq!(early.asking.len(), 1);
    // What comes meanwhile waits for the next time.
    early.wrote(PORTION);
    assert_eq!(early.asking.len(), 1);
    let asked = early.clone();
    exec.block_on(async move { asked.end().await });
    assert!(early.asking.is_empty());
    early.wrote(1);
    assert_eq!(early.asking.len(), 1);
    let asked = early.clone();
    exec.block_on(async move { asked.end().await });
}
