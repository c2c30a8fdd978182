use std::{fs, rc::Rc};

use strata_exec::Executor;

use crate::{Files, error::Result};

/// Runs `work` with the host's files and an executor.
fn run<T: 'static>(work: impl AsyncFnOnce(Files, Rc<Executor>) -> T + 'static) -> T {
    let exec = Executor::new().unwrap();
    let inner = exec.clone();
    exec.block_on(async move { work(Files::Host, inner).await })
}

#[test]
fn a_file_is_written_anew_or_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.job");
    let place = path.clone();
    run(async move |files, exec| {
        for content in ["one", "two, longer", "3"] {
            files
                .write_whole(&exec, &place, content.into())
                .await
                .unwrap();
            let read = files.read_whole(&exec, &place, 100).await.unwrap();
            assert_eq!(read, content.as_bytes());
        }
        assert_eq!(files.read_whole(&exec, &place, 0).await.unwrap().len(), 1);
        let nowhere = place.join("b.job");
        let error = files.write_whole(&exec, &nowhere, vec![0]).await;
        assert!(error.unwrap_err().to_string().contains("a.job/b.job"));
    });
    // A directory is in its place.
    let taken = directory.path().join("taken.job");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("x"), "").unwrap();
    run(async move |files, exec| {
        let written = files.write_whole(&exec, &taken, vec![0]).await;
        written.unwrap_err();
    });
    let names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn what_was_not_finished_is_removed_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in [
        "b.job",
        "a.job",
        "a.job.unfinished",
        "other",
        "x.unfinished",
    ] {
        fs::write(at(name), name).unwrap();
    }
    let place = directory.path().to_owned();
    let found = run(async move |files, exec| -> Result<_> {
        let found = files.list(&exec, &place, ".job").await?;
        files.remove_for_good(&exec, &found[1]).await?;
        // It is gone already.
        files.remove_for_good(&exec, &found[1]).await?;
        Ok(found)
    });
    assert_eq!(found.unwrap(), [at("a.job"), at("b.job")]);
    let there = |name: &str| at(name).exists();
    assert!(there("a.job") && there("other") && there("x.unfinished"));
    assert!(!there("a.job.unfinished") && !there("b.job"));
}
