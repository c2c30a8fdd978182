//! Where jobs are recorded: a directory with a file for each job.
//!
//! Records are written with the job's state of the moment: before it begins, when what it has done
//! so far is durable, before headers change, and at its end. So a process that comes after this one
//! finds every job that has not ended, and every result that nobody has dismissed.

use std::{
    cell::{Cell, RefCell},
    fs::File,
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

use strata_exec::Executor;
use strata_graph::{Name, Node};
use strata_storage::{
    Files,
    error::{Error, IoResult, Result},
};

use super::{
    Job,
    record::{MOST, Record, State},
};
use crate::api::{BlockJobInfo, Cmd};

/// How the names of records end.
const ENDING: &str = ".job";

/// Bytes of a disk that a job does before it notes that they are done.
const STRIDE: u64 = 64 << 20;

/// The directory.
pub(crate) struct Store {
    exec: Rc<Executor>,
    files: Files,
    directory: PathBuf,
    /// Keeps other processes out.
    _lock: Option<File>,
    stride: u64,
}

/// What the directory holds.
pub(crate) struct Found {
    pub records: Vec<Record>,
    /// A line for each file that is no record.
    pub damaged: Vec<String>,
}

impl Store {
    /// Takes the directory, which must be there, for this process alone.
    ///
    /// # Errors
    /// One line on why not.
    pub fn open(exec: Rc<Executor>, files: Files, directory: &Path) -> Result<Self> {
        let lock = match &files {
            Files::Host => Some(lock(directory)?),
            #[allow(unreachable_patterns, reason = "there is another kind in simulations")]
            _ => None,
        };
        Ok(Self {
            exec,
            files,
            directory: directory.to_owned(),
            _lock: lock,
            stride: STRIDE,
        })
    }

    /// Has jobs note more or less often what they have done.
    pub fn with_stride(self, bytes: u64) -> Self {
        Self {
            stride: bytes,
            ..self
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}{ENDING}"))
    }

    /// Reads all records.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub async fn load(&self) -> Result<Found> {
        let mut found = Found {
            records: Vec::new(),
            damaged: Vec::new(),
        };
        for path in self.files.list(&self.exec, &self.directory, ENDING).await? {
            match self.read(&path).await {
                Ok(record) => found.records.push(record),
                Err(why) => found.damaged.push(format!(
                    "'{}' is no record of a job: {why}. Nothing is done about it; remove it",
                    path.display()
                )),
            }
        }
        Ok(found)
    }

    async fn read(&self, path: &Path) -> std::result::Result<Record, String> {
        let read = self.files.read_whole(&self.exec, path, MOST).await;
        let record = Record::decode(&read.map_err(|error| error.to_string())?)?;
        if self.path(&record.id) == path {
            Ok(record)
        } else {
            Err(format!("it is that of job '{}'", record.id))
        }
    }

    /// Records a job.
    ///
    /// # Errors
    /// It cannot be recorded.
    pub async fn save(&self, record: &Record) -> Result<()> {
        let path = self.path(&record.id);
        let bytes = record.encode().map_err(|why| Error::Image {
            file: path.clone(),
            why,
        })?;
        self.files.write_whole(&self.exec, &path, bytes).await
    }

    /// Forgets a job.
    pub async fn remove(&self, id: &str) {
        let path = self.path(id);
        if let Err(error) = self.files.remove_for_good(&self.exec, &path).await {
            tracing::warn!(job = id, %error, "the record of a job that has ended stays");
        }
    }
}

/// Takes a directory for this process.
fn lock(directory: &Path) -> Result<File> {
    let failed = |source: io::Error| Error::File {
        what: "use",
        file: directory.to_owned(),
        source,
    };
    let opened = File::open(directory).map_err(failed)?;
    if !opened.metadata().map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    opened.try_lock().map_err(|error| match error {
        std::fs::TryLockError::Error(source) => failed(source),
        std::fs::TryLockError::WouldBlock => Error::Image {
            file: directory.to_owned(),
            why: "is the directory of another process, which records its jobs there: give each \
                  its own"
                .to_owned(),
        },
    })?;
    Ok(opened)
}

/// One job's place in a [`Store`].
pub(crate) struct Journal {
    store: Rc<Store>,
    record: RefCell<Record>,
    /// The layer whose flush makes durable what the job has done, if it need not be done again.
    target: RefCell<Option<Rc<Node>>>,
    /// Bytes done when it was last noted.
    noted: Cell<u64>,
}

impl Journal {
    pub fn new(store: Rc<Store>, record: Record, target: Option<Rc<Node>>) -> Self {
        let noted = match record.state {
            State::Working(from) => from,
            _ => 0,
        };
        Self {
            store,
            record: RefCell::new(record),
            target: RefCell::new(target),
            noted: Cell::new(noted),
        }
    }

    /// Records the job as it is now.
    ///
    /// # Errors
    /// One line on why it cannot be.
    pub async fn save(&self) -> Result<()> {
        let record = self.record.borrow().clone();
        self.store.save(&record).await
    }

    /// Records another state. The job goes on without a record of it if that fails.
    async fn note(&self, job: &Job, state: State) -> Result<()> {
        {
            let mut record = self.record.borrow_mut();
            (record.state, record.speed) = (state, job.speed());
        }
        let saved = self.save().await;
        if let Err(error) = &saved {
            let id = &self.record.borrow().id;
            tracing::warn!(job = id, %error, "how far a job has come is not recorded");
        }
        saved
    }

    /// Records how far the job has come, if that is much further than the last time, or if it
    /// `stops` now.
    ///
    /// # Errors
    /// What the job has written does not become durable.
    pub(super) async fn note_progress(&self, job: &Job, stops: bool) -> IoResult<()> {
        // What was left out is known to this process alone.
        if job.error().is_some() {
            return Ok(());
        }
        let done = job.offset();
        let least = if stops { 1 } else { self.store.stride };
        let target = self.target.borrow().clone();
        let Some(target) = target.filter(|_| done >= self.noted.get() + least) else {
            return Ok(());
        };
        target.flush().await?;
        self.noted.set(done);
        // The old record says less, and is right.
        let _ = self.note(job, State::Working(done)).await;
        Ok(())
    }

    /// Records that everything is in place.
    ///
    /// # Errors
    /// It cannot be recorded.
    pub(super) async fn decide(&self, job: &Job) -> Result<()> {
        self.note(job, State::Decided(job.ending())).await
    }

    /// Records what has come of the job, if that is kept for its client.
    pub(super) async fn conclude(&self, job: &Job) {
        self.target.take();
        let end = job.end();
        let state = State::Concluded {
            error: job.error(),
            len: end.len,
            offset: end.offset,
        };
        // Rather no result than the record of a job that seems not to have ended.
        if job.options().auto_dismiss || self.note(job, state).await.is_err() {
            self.remove().await;
        }
    }

    /// Forgets the job.
    pub async fn remove(&self) {
        let id = self.record.borrow().id.clone();
        self.store.remove(&id).await;
    }
}

/// A job of an earlier process that is over: its result waits for its client.
pub(crate) struct PastJob {
    pub info: BlockJobInfo,
    /// What its client had asked for.
    pub asked: Cmd,
    pub store: Rc<Store>,
    /// Nobody else is called so.
    pub _id: Name,
}
