//! Jobs that outlive their process: how they are recorded, found again and gone on with.

use std::{path::Path, rc::Rc};

use strata_graph::{GuestDisk, Name, Node};
use strata_storage::{error::Result, is_unnamed};

use super::{Engine, ReplyTo, merge::Prepared, refused};
use crate::{
    api::{BlockJobInfo, Cmd, CmdError, JobStatus, Reply},
    jobs::{Begun, JobOptions, Journal, Layer, PastJob, Record, Shape, State, Store},
};

/// Where a record's job would go on.
enum Place {
    /// Here: the record's layers.
    Found(Rc<GuestDisk>, Vec<Rc<Node>>),
    /// Nowhere: the chain is what the job was to make of it.
    Ended,
}

impl Engine {
    /// Records jobs in `directory` from now on, so that they outlive this process, and enters those
    /// that an earlier one has left there: paused, unless they are to go on (`resume`). Called
    /// once, when the disks are open, before anything else happens. Blocks.
    ///
    /// Returns a line for each record that cannot be gone on with.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn keep_jobs_in(self: &Rc<Self>, directory: &Path, resume: bool) -> Result<Vec<String>> {
        let files = self.opener.files().clone();
        let store = Store::open(self.exec.clone(), files, directory)?;
        self.keep_jobs(store, resume)
    }

    /// As [`Engine::keep_jobs_in`], with jobs that note after so many bytes what they have done.
    ///
    /// # Errors
    /// As [`Engine::keep_jobs_in`].
    #[doc(hidden)]
    pub fn keep_jobs_by_the_way(
        self: &Rc<Self>,
        directory: &Path,
        resume: bool,
        stride: u64,
    ) -> Result<Vec<String>> {
        let files = self.opener.files().clone();
        let store = Store::open(self.exec.clone(), files, directory)?.with_stride(stride);
        self.keep_jobs(store, resume)
    }

    fn keep_jobs(self: &Rc<Self>, store: Store, resume: bool) -> Result<Vec<String>> {
        let (engine, store) = (self.clone(), Rc::new(store));
        self.store.replace(Some(store.clone()));
        self.exec.block_on(async move {
            let found = store.load().await?;
            let mut lines = found.damaged;
            for (record, newly_decided) in decide_groups(found.records) {
                let id = record.id.clone();
                let saved = if newly_decided {
                    store.save(&record).await.map_err(|error| error.to_string())
                } else {
                    Ok(())
                };
                let restored = match saved {
                    Ok(()) => engine.restore(&store, record, resume).await,
                    Err(why) => Err(why),
                };
                if let Err(why) = restored {
                    lines.push(format!("job '{id}', left by an earlier process: {why}"));
                }
            }
            Ok(lines)
        })
    }

    /// Enters the job of a record.
    async fn restore(
        self: &Rc<Self>,
        store: &Rc<Store>,
        record: Record,
        resume: bool,
    ) -> std::result::Result<(), String> {
        if let State::Concluded { .. } = record.state {
            return self.enter_past(&record, store, None);
        }
        let begun = match self.find_place(&record) {
            Ok(Place::Ended) => {
                if record.auto_dismiss() {
                    store.remove(&record.id).await;
                    return Ok(());
                }
                return self.enter_past(&record, store, None);
            }
            Ok(Place::Found(disk, layers)) => self.go_on(store, &record, (&disk, &layers), resume),
            Err(why) => Err(why),
        };
        begun.or_else(|why| {
            let why = format!("it does not fit the images any more: {why}");
            self.enter_past(&record, store, Some(why.clone()))?;
            Err(why)
        })
    }

    /// Has the job go on, or wait for that.
    fn go_on(
        self: &Rc<Self>,
        store: &Rc<Store>,
        record: &Record,
        (disk, layers): (&Rc<GuestDisk>, &[Rc<Node>]),
        resume: bool,
    ) -> std::result::Result<(), String> {
        let decided = match record.state {
            State::Decided(ending) => Some(ending),
            _ => None,
        };
        let cmd = command_again(record, disk, layers, decided.is_some());
        let mut prepared = self.prepare_job(cmd).map_err(|error| error.desc)?;
        let target = prepared.target.take();
        let journal = Journal::new(store.clone(), record.clone(), target);
        let from = match record.state {
            State::Working(from) => from,
            _ => 0,
        };
        prepared.start(Begun {
            journal: Some(journal),
            from,
            paused: !resume,
            restored: true,
            ending: decided.flatten(),
            asked: Some(record.cmd.clone()),
        });
        Ok(())
    }

    /// Enters a job that is over, since it has ended or cannot go on.
    fn enter_past(
        &self,
        record: &Record,
        store: &Rc<Store>,
        why: Option<String>,
    ) -> std::result::Result<(), String> {
        let id = self.opener.names().job(&record.id);
        let id: Name = id.map_err(|error| error.to_string())?;
        let (error, len, offset) = match &record.state {
            State::Concluded { error, len, offset } => (error.clone(), *len, *offset),
            _ => (None, 0, 0),
        };
        let info = BlockJobInfo {
            kind: record.shape.kind(),
            device: record.id.clone(),
            len,
            offset,
            busy: false,
            paused: false,
            speed: record.speed,
            io_status: "ok".to_owned(),
            ready: false,
            status: JobStatus::Concluded,
            auto_finalize: true,
            auto_dismiss: false,
            group: record.group().map(str::to_owned),
            actively_synced: None,
            error: why.or(error),
            progress: None,
        };
        self.jobs.enter_past(PastJob {
            info,
            asked: record.cmd.clone(),
            store: store.clone(),
            _id: id,
        });
        Ok(())
    }

    /// Looks for the layers of a record.
    fn find_place(&self, record: &Record) -> std::result::Result<Place, String> {
        let disks = self.disks.borrow();
        let disk = disks.iter().find(|disk| disk.options().id == record.disk);
        let disk = disk.ok_or_else(|| format!("there is no disk '{}'", record.disk))?;
        let chain: Vec<_> = disk.root().chain().collect();
        let (Some(first), Some(last)) = (record.layers.first(), record.layers.last()) else {
            return Err("it names no layers".to_owned());
        };
        let Some(at) = chain.iter().position(|node| first.is(node)) else {
            if record.shape == Shape::CommitTop && last.is(&disk.root()) {
                return Ok(Place::Ended);
            }
            let (name, disk) = (first.name(), &record.disk);
            return Err(format!("'{name}' is no layer of disk '{disk}'"));
        };
        let chain = &chain[at..];
        check_sizes(record, chain)?;
        let as_recorded = chain.len() >= record.layers.len()
            && record
                .layers
                .iter()
                .zip(chain)
                .all(|(layer, node)| layer.is(node));
        let stands_alone = record.shape == Shape::Stream;
        if as_recorded && (!stands_alone || chain.len() == record.layers.len()) {
            let layers = chain[..record.layers.len()].to_vec();
            return Ok(Place::Found(disk.clone(), layers));
        }
        let on_last = chain.get(1).is_some_and(|below| last.is(below));
        match record.shape {
            Shape::Stream if chain.len() == 1 => Ok(Place::Ended),
            Shape::StreamToBase | Shape::Commit if on_last => Ok(Place::Ended),
            // Its header is changed before it is emptied.
            Shape::CommitTop if on_last => Ok(Place::Found(disk.clone(), chain[..2].to_vec())),
            _ => Err(format!("what lies below '{}' has changed", first.name())),
        }
    }

    /// Starts a job that a client has asked for, once it is recorded if jobs are.
    ///
    /// A command for a job of a group that is there already, asked in the same words, gets the same
    /// answer: whoever has not heard it may ask again.
    pub(super) fn begin_job(self: &Rc<Self>, cmd: Cmd, reply: ReplyTo) {
        let name = cmd.name();
        if self.jobs.knows(&cmd) {
            return reply(Ok(Reply::Done));
        }
        let asked = cmd.clone();
        let mut prepared = match self.prepare_job(cmd) {
            Ok(prepared) => prepared,
            Err(error) => return reply(Err(error)),
        };
        let Some(journal) = self.journal(&mut prepared) else {
            prepared.start(Begun::asked(asked, None));
            return reply(Ok(Reply::Done));
        };
        self.spawn(name, reply, async move |_| {
            record(&journal).await?;
            prepared.start(Begun::asked(asked, Some(journal)));
            Ok(Reply::Done)
        });
    }

    /// Starts several jobs, all of them or none. If they are `grouped`, those that say no group are
    /// one; groups that do not say how large they are have the jobs of this transaction.
    pub(super) async fn begin_together(
        self: &Rc<Self>,
        cmds: Vec<Cmd>,
        grouped: bool,
    ) -> std::result::Result<(), CmdError> {
        if cmds.iter().all(|cmd| self.jobs.knows(cmd)) {
            return Ok(());
        }
        let made_up = self.jobs.made_up_group();
        let group_of = |cmd: &Cmd| {
            let given = cmd.group().map(str::to_owned);
            given.or_else(|| grouped.then(|| made_up.clone()))
        };
        let groups: Vec<_> = cmds.iter().map(group_of).collect();
        let size_of = |group| groups.iter().filter(|other| *other == group).count();
        let mut all = Vec::new();
        for (asked, group) in cmds.into_iter().zip(&groups) {
            let mut cmd = asked.clone();
            if let Some(name) = group {
                cmd.set_group(name, u32::try_from(size_of(group)).unwrap_or(u32::MAX));
            }
            let mut prepared = self.prepare_job(cmd)?;
            let journal = self.journal(&mut prepared);
            all.push((prepared, asked, journal));
        }
        for (at, (.., journal)) in all.iter().enumerate() {
            let Some(journal) = journal else { continue };
            if let Err(error) = record(journal).await {
                for (.., journal) in &all[..at] {
                    if let Some(journal) = journal {
                        journal.remove().await;
                    }
                }
                return Err(error);
            }
        }
        for (prepared, asked, journal) in all {
            prepared.start(Begun::asked(asked, journal));
        }
        Ok(())
    }

    /// Forgets a job that has concluded, and what is recorded of it.
    pub(super) fn dismiss(
        self: &Rc<Self>,
        name: &'static str,
        id: &str,
        reply: ReplyTo,
        in_words: fn(CmdError) -> CmdError,
    ) {
        if let Some(past) = self.jobs.take_past(id) {
            return self.spawn(name, reply, async move |_| {
                past.store.remove(&past.info.device).await;
                Ok(Reply::Done)
            });
        }
        match self.jobs.to_dismiss(id) {
            Ok(job) if job.journal().is_some() => self.spawn(name, reply, async move |engine| {
                if let Some(journal) = job.journal() {
                    journal.remove().await;
                }
                // Somebody else may have dismissed it meanwhile.
                if job.status() == JobStatus::Concluded {
                    engine.jobs.remove(&job);
                }
                Ok(Reply::Done)
            }),
            Ok(_) => reply(self.jobs.dismiss(id).map(|()| Reply::Done)),
            Err(error) => reply(Err(in_words(error))),
        }
    }

    /// The job that `cmd` asks for.
    pub(super) fn prepare_job(
        self: &Rc<Self>,
        cmd: Cmd,
    ) -> std::result::Result<Prepared, CmdError> {
        match cmd {
            Cmd::BlockStream(cmd) => self.prepare_stream(cmd),
            Cmd::BlockCommit(cmd) => self.prepare_commit(*cmd),
            cmd => Err(refused(format!("'{}' starts no job", cmd.name()))),
        }
    }

    /// The place where a job is recorded, if it is.
    pub(super) fn journal(&self, prepared: &mut Prepared) -> Option<Journal> {
        let (store, record) = (self.store.borrow().clone()?, prepared.record.take()?);
        Some(Journal::new(store, record, prepared.target.take()))
    }

    /// What is recorded of a job that `cmd` asks for, if jobs are recorded. What becomes of a
    /// temporary layer nobody can go on with.
    pub(super) fn record_of(
        &self,
        (disk, options, cmd): (&GuestDisk, &JobOptions, Cmd),
        shape: Shape,
        layers: impl Iterator<Item = Rc<Node>>,
    ) -> Option<Record> {
        self.store.borrow().as_ref()?;
        let layers: Vec<_> = layers.collect();
        let lasts = layers.iter().all(|layer| !is_unnamed(layer.path()));
        lasts.then(|| Record {
            id: options.id.as_str().to_owned(),
            shape,
            disk: disk.options().id.clone(),
            speed: options.speed,
            cmd,
            layers: layers.iter().map(|node| Layer::of(node)).collect(),
            state: State::Working(0),
        })
    }
}

/// Records a job before it begins.
pub(super) async fn record(journal: &Journal) -> std::result::Result<(), CmdError> {
    let saved = journal.save().await;
    saved.map_err(|error| refused(format!("The job cannot be recorded: {error}")))
}

/// A group of which one member knows that all of them have their data in place ends so: a member
/// that is not there any more has ended. Says of each record whether it is known only now.
fn decide_groups(records: Vec<Record>) -> Vec<(Record, bool)> {
    let decided: Vec<_> = records
        .iter()
        .filter(|record| matches!(record.state, State::Decided(_)))
        .filter_map(|record| record.group().map(str::to_owned))
        .collect();
    let is_decided = |record: &Record| {
        let group = record.group();
        let works = matches!(record.state, State::Working(_));
        works && group.is_some_and(|group| decided.iter().any(|one| one == group))
    };
    let mut all = Vec::new();
    for mut record in records {
        let decide = is_decided(&record);
        if decide {
            record.decide();
        }
        all.push((record, decide));
    }
    all
}

fn check_sizes(record: &Record, chain: &[Rc<Node>]) -> std::result::Result<(), String> {
    for (layer, node) in record.layers.iter().zip(chain) {
        let base = record.layers.last().is_some_and(|last| last.is(node));
        // A commit makes its base as large as what goes down into it.
        let grown = base
            && record
                .layers
                .iter()
                .any(|layer| layer.size() == node.size());
        if layer.is(node) && layer.size() != node.size() && !grown {
            return Err(format!(
                "'{}' shows {} bytes, and did show {}",
                layer.name(),
                node.size(),
                layer.size()
            ));
        }
    }
    Ok(())
}

/// The command of a record, with what its layers are called now.
fn command_again(record: &Record, disk: &GuestDisk, layers: &[Rc<Node>], decided: bool) -> Cmd {
    let name = |node: &Rc<Node>| Some(node.name().to_owned());
    let on_top = Rc::ptr_eq(&layers[0], &disk.root());
    let (speed, id) = (Some(record.speed), Some(record.id.clone()));
    let mut cmd = record.cmd.clone();
    match &mut cmd {
        Cmd::BlockStream(cmd) => {
            let device = if on_top {
                &record.disk
            } else {
                layers[0].name()
            };
            cmd.device = device.to_owned();
            (cmd.job_id, cmd.speed) = (id, speed);
            (cmd.base, cmd.bottom) = (None, None);
            let base = (record.shape == Shape::StreamToBase).then(|| layers.last());
            cmd.base_node = base.flatten().and_then(name);
            if decided {
                (cmd.group, cmd.group_size) = (None, None);
            }
        }
        Cmd::BlockCommit(cmd) => {
            cmd.device.clone_from(&record.disk);
            (cmd.job_id, cmd.speed, cmd.base, cmd.top) = (id, speed, None, None);
            let top = usize::from(record.shape == Shape::Commit);
            cmd.top_node = layers.get(top).and_then(name);
            cmd.base_node = layers.last().and_then(name);
            if decided {
                (cmd.group, cmd.group_size) = (None, None);
            }
        }
        _ => {}
    }
    cmd
}
