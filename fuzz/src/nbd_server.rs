//! The NBD server: the input is what a client sends. Nobody else is disturbed by it: at the end
//! another client is served as ever.

use std::{
    cell::RefCell,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    rc::Rc,
};

use strata_block::nbd::{Export, Server};
use strata_exec::{Executor, Queue, Watched};
use strata_format::{bitmap::DirtyBitmap, extent::DiskExtent, names::Namespace};
use strata_graph::disk::{Disk, DiskInfo, Done, ExtentsDone, Op, Request, Submit};
use strata_storage::{error::IoError, nbd::wire::Address};

/// Bytes of the disk: enough for reads that look for holes first.
const SIZE: usize = 192 << 10;

/// The second half is a hole until it is written, as far as this disk says.
const HOLE: u64 = 128 << 10;

/// A disk in memory.
struct Memory(RefCell<Vec<u8>>);

impl Submit for Memory {
    fn submit(&self, request: Request, done: Done) {
        let mut bytes = self.0.borrow_mut();
        let range = request.offset as usize..(request.offset + request.len) as usize;
        match request.op {
            Op::Read => request.data.copy_from(0, &bytes[range]),
            Op::Write { .. } => request.data.copy_to(0, &mut bytes[range]),
            Op::WriteZeroes { .. } => bytes[range].fill(0),
            Op::Flush | Op::Discard => {}
        }
        drop(bytes);
        // One request that fails, to see its error reply.
        let failed = request.offset == 512 && matches!(request.op, Op::Read);
        done(if failed {
            Err(IoError::Cancelled)
        } else {
            Ok(())
        });
    }

    fn info(&self) -> Rc<DiskInfo> {
        Rc::new(DiskInfo {
            id: "memory".to_owned(),
            size: SIZE as u64,
            block_size: 512,
            physical_block_size: 512,
            read_only: false,
            discard: true,
            discard_granularity: 512,
            serial: String::new(),
        })
    }

    fn extents(&self, offset: u64, len: u64, _max: usize, done: ExtentsDone) {
        let boundary = if offset < HOLE { HOLE } else { SIZE as u64 };
        done(Ok(vec![DiskExtent {
            len: len.min(boundary - offset),
            zero: false,
            depth: u32::from(offset < HOLE),
        }]));
    }
}

/// Serves a client that sends `input`.
pub fn run(input: &[u8]) {
    let exec = Executor::new().expect("an executor can be had");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("s");
    let (input, inner) = (input.to_vec(), exec.clone());
    exec.block_on(async move {
        let server = Server::start(&inner, Address::Unix(path.clone()), None, None).await;
        let server = server.expect("a server can be started");
        for (name, writable) in [("", true), ("read-only", false)] {
            let bitmap = Namespace::default().reserve("b").expect("it is empty");
            let bitmap = DirtyBitmap::new(bitmap, 9, SIZE as u64, false);
            bitmap.set(512..4096);
            let export = Export {
                name: name.to_owned(),
                description: Some("fuzzed".to_owned()),
                disk: Disk::new(Rc::new(Memory(RefCell::new(vec![0x11; SIZE])))).by_bytes(),
                writable,
                bitmaps: vec![Rc::new(bitmap).hold()],
            };
            server.add(export).expect("an export can be added");
        }
        exchange(&inner, &path, input).await;
        let listing = exchange(&inner, &path, list()).await;
        assert!(listing.ends_with(&[0; 4]), "another client is not served");
        server.stop().await;
    });
    exec.drop_tasks();
}

/// Sends `bytes` and the end, and receives until the server has closed the connection.
async fn exchange(exec: &Rc<Executor>, path: &PathBuf, bytes: Vec<u8>) -> Vec<u8> {
    let socket = UnixStream::connect(path).expect("the server listens");
    socket.set_nonblocking(true).expect("a socket can be set");
    let socket = Rc::new(Watched::new(exec, socket).expect("a socket can be watched"));
    let sender = socket.clone();
    exec.spawn(Queue::Guest, async move {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let write = |mut socket: &UnixStream| socket.write(rest);
            match sender.writable(|socket| write(socket)).await {
                Ok(n) => rest = &rest[n..],
                // The server has had enough.
                Err(_) => return,
            }
        }
        let _ = sender.get().shutdown(Shutdown::Write);
    });
    let mut received = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut read = |mut socket: &UnixStream| socket.read(&mut buffer);
        match socket.readable(|socket| read(socket)).await {
            Ok(0) | Err(_) => return received,
            // Replies to many long reads would add up.
            Ok(n) if received.len() < 1 << 20 => received.extend_from_slice(&buffer[..n]),
            Ok(_) => {}
        }
    }
}

/// A client that lists the exports and leaves; the last reply has no data.
fn list() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 3];
    for option in [3u32, 2] {
        bytes.extend(b"IHAVEOPT");
        bytes.extend(option.to_be_bytes());
        bytes.extend([0; 4]);
    }
    bytes
}
