//! The NBD client: the input is what a server sends, whatever it is asked.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use strata_exec::{Executor, Queue, Watched, mem::SgList};
use strata_storage::{FileOptions, Storage};

/// Bytes of one request.
const LEN: usize = 4096;

/// Connects to a server that sends `input`, and asks for this and that.
pub fn run(input: &[u8]) {
    let exec = Executor::new().expect("an executor can be had");
    let directory = tempfile::tempdir().expect("a directory can be made");
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).expect("a socket can be made");
    listener.set_nonblocking(true).expect("a socket can be set");
    let (input, inner) = (input.to_vec(), exec.clone());
    exec.spawn(Queue::Guest, serve(exec.clone(), listener, input));
    exec.block_on(async move { ask(&inner, path).await });
    exec.drop_tasks();
}

/// Errors are what most inputs lead to; a panic or a wait without end is what is looked for.
async fn ask(exec: &Rc<Executor>, path: PathBuf) {
    let uri = format!("nbd+unix:///e?socket={}", path.display());
    let options = FileOptions::default();
    let Ok(export) = Storage::open(exec, uri.as_ref(), options, Duration::ZERO).await else {
        return;
    };
    let len = export.len();
    let _ = export.extent(0, len.max(1)).await;
    let _ = export.read(0, SgList::zeroed(LEN)).await;
    let _ = export.write(1, SgList::zeroed(LEN - 1)).await;
    let _ = export
        .write_zeroes(len / 2, len.min(LEN as u64), true)
        .await;
    let _ = export.punch_hole(0, len.min(LEN as u64)).await;
    let _ = export
        .read(len.saturating_sub(7), SgList::zeroed(LEN))
        .await;
    let _ = export.flush().await;
}

/// Sends all of `input` to the first client and takes what comes.
async fn serve(exec: Rc<Executor>, listener: UnixListener, input: Vec<u8>) {
    let listener = Watched::new(&exec, listener).expect("a socket can be watched");
    let accepted = listener.readable(|listener| listener.accept()).await;
    let Ok((socket, _)) = accepted else { return };
    socket.set_nonblocking(true).expect("a socket can be set");
    let socket = Rc::new(Watched::new(&exec, socket).expect("a socket can be watched"));
    exec.spawn(Queue::Guest, swallow(socket.clone()));
    let mut rest = &input[..];
    while !rest.is_empty() {
        let write = |mut socket: &UnixStream| socket.write(rest);
        match socket.writable(|socket| write(socket)).await {
            Ok(n) => rest = &rest[n..],
            Err(_) => return,
        }
    }
    let _ = socket.get().shutdown(Shutdown::Write);
}

async fn swallow(socket: Rc<Watched<UnixStream>>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut read = |mut socket: &UnixStream| socket.read(&mut buffer);
        match socket.readable(|socket| read(socket)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}
