//! A simulated directory: which files there are, and which of their names a crash keeps.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

use strata_exec::random;

use super::{Content, SimFile};
use crate::error::{Error, Result};

/// Simulated files by their paths. A new file's name survives a crash for certain once the
/// directory has been synced, as on real file systems.
pub struct SimDirectory {
    files: RefCell<BTreeMap<PathBuf, Rc<SimFile>>>,
    /// Files whose name a crash may forget.
    unsynced: RefCell<BTreeSet<PathBuf>>,
    /// Names that lead to other files for now.
    diverted: RefCell<BTreeMap<PathBuf, Rc<SimFile>>>,
    /// Files that are written as a whole find no room.
    full: Cell<bool>,
    random: Cell<u64>,
}

impl SimDirectory {
    /// A directory with these files, all durable.
    pub fn new(contents: BTreeMap<PathBuf, Content>, seed: u64) -> Rc<Self> {
        let directory = Self {
            files: RefCell::default(),
            unsynced: RefCell::default(),
            diverted: RefCell::default(),
            full: Cell::new(false),
            random: Cell::new(seed),
        };
        for (path, content) in contents {
            directory.insert(&path, content);
        }
        Rc::new(directory)
    }

    /// The file at `path`.
    pub fn file(&self, path: &Path) -> Option<Rc<SimFile>> {
        self.files.borrow().get(path).cloned()
    }

    /// As if somebody had put another file in the place of the one at `path`, which stays open
    /// where it is. A crash finds the old one there.
    pub fn divert(&self, path: &Path) {
        let other = Rc::new(SimFile::with_content(path, Content::default(), 0));
        self.diverted.borrow_mut().insert(path.to_owned(), other);
    }

    /// Undoes [`SimDirectory::divert`].
    pub fn put_back(&self, path: &Path) {
        self.diverted.borrow_mut().remove(path);
    }

    /// What a name leads to now.
    pub(crate) fn find(&self, path: &Path) -> Option<Rc<SimFile>> {
        let diverted = self.diverted.borrow().get(path).cloned();
        diverted.or_else(|| self.file(path))
    }

    /// All that is certainly durable now.
    pub fn durable(&self) -> BTreeMap<PathBuf, Content> {
        let unsynced = self.unsynced.borrow();
        let files = self.files.borrow();
        let synced = files.iter().filter(|(path, _)| !unsynced.contains(*path));
        synced
            .map(|(path, file)| (path.clone(), file.durable()))
            .collect()
    }

    /// One of the states that a crash now can leave, chosen by `seed`.
    pub fn after_crash(&self, mut seed: u64) -> BTreeMap<PathBuf, Content> {
        let unsynced = self.unsynced.borrow();
        let mut left = BTreeMap::new();
        for (path, file) in &*self.files.borrow() {
            let random = random::next(&mut seed);
            if !unsynced.contains(path) || random.is_multiple_of(2) {
                left.insert(path.clone(), file.after_crash(random >> 1));
            }
        }
        left
    }

    /// Every file.
    pub fn files(&self) -> Vec<Rc<SimFile>> {
        self.files.borrow().values().cloned().collect()
    }

    /// Flushes of its files that have begun so far.
    pub fn flushes(&self) -> u64 {
        let files = self.files.borrow();
        files.values().map(|file| file.flushes()).sum()
    }

    pub(crate) fn open(&self, path: &Path) -> Result<Rc<SimFile>> {
        let file = self.find(path).map(|file| Rc::new(file.open_again()));
        file.ok_or_else(|| failed("open", path, io::ErrorKind::NotFound))
    }

    pub(crate) fn create(&self, path: &Path) -> Result<Rc<SimFile>> {
        if self.find(path).is_some() {
            return Err(failed("create", path, io::ErrorKind::AlreadyExists));
        }
        self.unsynced.borrow_mut().insert(path.to_owned());
        Ok(Rc::new(self.insert(path, Content::default()).open_again()))
    }

    pub(crate) fn remove(&self, path: &Path) {
        self.files.borrow_mut().remove(path);
    }

    /// The files in `directory` whose names end with `ending`.
    pub(crate) fn list(&self, directory: &Path, ending: &str) -> Vec<PathBuf> {
        let is_it = |path: &&PathBuf| {
            path.parent() == Some(directory) && path.to_string_lossy().ends_with(ending)
        };
        self.files.borrow().keys().filter(is_it).cloned().collect()
    }

    /// A durable file that holds `bytes`, in the place of what has its name.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if self.full.get() {
            return Err(failed("write", path, io::ErrorKind::StorageFull));
        }
        self.insert(path, Content::from(bytes));
        Ok(())
    }

    /// From now on there is no room for files that are written as a whole, or there is again.
    pub fn set_full(&self, full: bool) {
        self.full.set(full);
    }

    pub(crate) fn sync(&self) {
        self.unsynced.borrow_mut().clear();
    }

    fn insert(&self, path: &Path, content: Content) -> Rc<SimFile> {
        let mut random = self.random.get();
        let seed = random::next(&mut random);
        self.random.set(random);
        let file = Rc::new(SimFile::with_content(path, content, seed));
        let mut files = self.files.borrow_mut();
        files.insert(path.to_owned(), file.clone());
        file
    }
}

fn failed(what: &'static str, path: &Path, kind: io::ErrorKind) -> Error {
    Error::File {
        what,
        file: path.to_owned(),
        source: kind.into(),
    }
}
