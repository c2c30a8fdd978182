//! The image layer in a program of one's own: an image is made, written to, snapshotted and merged.
//!
//! `cargo run -p strata-block --example embed -- DIRECTORY` makes two images in the directory.

use std::{cell::Cell, error::Error, path::PathBuf, rc::Rc};

use strata_block::{
    api::{BlockStream, BlockdevSnapshotSync, Cmd, CmdError, Event, Reply},
    disk::{Disk, Op, Request},
    engine::{DiskSpec, Engine},
};
use strata_exec::{mem::SgList, sync::promise, yield_now};
use strata_format::qcow2::CreateOptions;
use strata_graph::{DiskOptions, Format, chain::ImageOptions, create_image};
use strata_storage::error::IoError;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("say in which directory")?;
    let directory = PathBuf::from(directory).canonicalize()?;
    let (first, second) = (
        directory.join("first.qcow2"),
        directory.join("second.qcow2"),
    );
    // The engine lives on this thread, and works only while it is polled here. A program with an
    // event loop watches `event_fd` and calls `poll`; here `block_on` does both.
    let merged = Rc::new(Cell::new(false));
    let seen = merged.clone();
    let engine = Engine::new(move |event| {
        println!("event: {event:?}");
        seen.set(seen.get() || matches!(event, Event::JobCompleted { .. }));
    })?;
    let exec = engine.exec().clone();

    let (maker, path) = (exec.clone(), first.clone());
    let options = CreateOptions {
        size: 64 << 20,
        ..CreateOptions::default()
    };
    exec.block_on(async move { create_image(&maker, &path, options).await })?;
    let disk = engine.open_disk(DiskSpec {
        path: first,
        // Formats are said, never guessed, for what is written.
        image: ImageOptions {
            format: Some(Format::Qcow2),
            ..ImageOptions::default()
        },
        disk: DiskOptions {
            id: "disk0".to_owned(),
            ..DiskOptions::default()
        },
    })?;

    let (at_work, of_engine, overlay) = (disk.clone(), engine.clone(), second.clone());
    exec.block_on(async move {
        write(&at_work, 0, b"before the snapshot").await?;
        // The disk's requests go to a new image from here on; the first one stays as it is.
        let snapshot = Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
            device: Some("disk0".to_owned()),
            snapshot_file: overlay.to_string_lossy().into_owned(),
            ..BlockdevSnapshotSync::default()
        });
        command(&of_engine, snapshot).await?;
        write(&at_work, 4096, b"after it").await?;
        // Copies into the new image what it lacks; the disk may be written to meanwhile.
        let stream = Cmd::BlockStream(BlockStream {
            device: "disk0".to_owned(),
            ..BlockStream::default()
        });
        command(&of_engine, stream).await?;
        Ok::<(), Box<dyn Error>>(())
    })?;
    while !merged.get() {
        exec.block_on(yield_now());
    }
    let text = exec.block_on(async move { read(&disk, 0, 19).await })?;
    println!(
        "{} holds {:?}",
        second.display(),
        String::from_utf8_lossy(&text)
    );
    match engine.shut_down().pop() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Writes, and returns when it is durable.
async fn write(disk: &Disk, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
    // Disks are read and written in whole sectors; `Disk::by_bytes` is for those who count in
    // bytes.
    let mut sectors = bytes.to_vec();
    sectors.resize(bytes.len().next_multiple_of(512), 0);
    let request = Request {
        op: Op::Write { fua: true },
        offset,
        len: sectors.len() as u64,
        data: SgList::from_vec(sectors),
    };
    disk.run(request).await
}

async fn read(disk: &Disk, offset: u64, len: usize) -> Result<Vec<u8>, IoError> {
    let data = SgList::zeroed(len.next_multiple_of(512));
    let request = Request {
        op: Op::Read,
        offset,
        len: data.len() as u64,
        data: data.clone(),
    };
    disk.run(request).await?;
    let mut bytes = data.to_vec();
    bytes.truncate(len);
    Ok(bytes)
}

/// What a monitor does: a command, and its answer.
async fn command(engine: &Rc<Engine>, command: Cmd) -> Result<Reply, CmdError> {
    let (answer, answered) = promise();
    engine.execute(command, Box::new(answer));
    answered.await
}
