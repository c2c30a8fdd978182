//! What only a file that was opened in an unusual way shows.

use std::{fs::OpenOptions, sync::Mutex};

use strata_exec::Executor;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::*;

/// Keeps the messages of warnings.
#[derive(Default, Clone)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// A file system without locks answers as the kernel does for a descriptor that cannot be read: a
/// shared lock fails, and not because somebody else holds one.
#[test]
fn where_there_are_no_locks_a_warning_says_so_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, [0; 512]).unwrap();
    let exec = Executor::new().unwrap();
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let file = FileStorage::new(&exec, file, &path, FileOptions::default()).unwrap();
        file.lock(Access::Write).unwrap();
        // Nothing keeps others from the file.
        FileStorage::open(&exec, &path, FileOptions::default()).unwrap();
        drop(file);
    });
    let warnings = warnings.0.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("cannot be locked") && warnings[0].contains("image"),
        "{warnings:?}"
    );
}
