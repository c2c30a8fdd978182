use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    rc::Rc,
    thread,
    time::Duration,
};

use strata_exec::{Executor, yield_now};
use strata_graph::disk::{Disk, DiskInfo, Done, Request, Submit};
use strata_storage::nbd::wire::Address;

use super::{Server, TOTAL};
use crate::nbd::Export;

const MOST: u32 = 32 << 20;

/// What so many clients have to themselves.
const OWN_OF_ALL: u64 = 21 * (256 << 10);

/// A disk that has nothing to do: what is read stays as it is.
struct Idle;

impl Submit for Idle {
    fn submit(&self, _request: Request, done: Done) {
        done(Ok(()));
    }

    fn info(&self) -> Rc<DiskInfo> {
        Rc::new(DiskInfo {
            id: "idle".into(),
            size: 1 << 30,
            block_size: 512,
            physical_block_size: 512,
            read_only: false,
            discard: false,
            discard_granularity: 512,
            serial: String::new(),
        })
    }
}

/// A client in the transmission phase, with simple replies.
fn attach(path: &Path) -> UnixStream {
    let mut socket = UnixStream::connect(path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    socket.read_exact(&mut [0; 18]).unwrap();
    socket.write_all(b"\0\0\0\x03IHAVEOPT").unwrap();
    socket.write_all(&[0, 0, 0, 1, 0, 0, 0, 0]).unwrap();
    socket.read_exact(&mut [0; 10]).unwrap();
    socket
}

fn ask(mut socket: &UnixStream, kind: u8, len: u32) {
    let mut request = vec![0x25, 0x60, 0x95, 0x13, 0, 0, 0, kind];
    request.extend([0; 16]);
    request.extend(len.to_be_bytes());
    socket.write_all(&request).unwrap();
}

fn with_server(
    max_clients: Option<u32>,
    clients: impl FnOnce(&Path) + Send + 'static,
    seen: impl Fn(&Server) + 'static,
) {
    let exec = Executor::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let inner = exec.clone();
    exec.block_on(async move {
        let server = Server::start(&inner, Address::Unix(path.clone()), max_clients, None).await;
        let server = server.unwrap();
        let export = Export {
            name: String::new(),
            description: None,
            disk: Disk::new(Rc::new(Idle)),
            writable: true,
            bitmaps: Vec::new(),
        };
        server.add(export).unwrap();
        let thread = thread::spawn(move || clients(&path));
        while !thread.is_finished() {
            seen(&server);
            yield_now().await;
        }
        thread.join().unwrap();
        server.stop().await;
    });
}

fn held(server: &Server) -> u64 {
    let clients = server.clients.borrow();
    clients.values().map(|client| client.held.get()).sum()
}

#[test]
fn all_clients_together_take_so_much_and_no_more() {
    let clients = |path: &Path| {
        // They read nothing, or owe what they want to write.
        let slow: Vec<_> = (0..20u8).map(|n| (attach(path), n)).collect();
        for (socket, n) in &slow {
            ask(socket, n % 2, MOST);
        }
        // Another one gets its turn all the same: with little at once, and with much later.
        let mut good = attach(path);
        ask(&good, 0, 64 << 10);
        good.read_exact(&mut [0; 16 + (64 << 10)]).unwrap();
        ask(&good, 0, MOST);
        let mut left = 16 + MOST as usize;
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            let n = good.read(&mut buffer).unwrap();
            assert!(n > 0, "the good client is sent away");
            left -= n;
        }
    };
    with_server(None, clients, |server| {
        assert!(held(server) <= TOTAL + OWN_OF_ALL)
    });
}

#[test]
fn who_reads_nothing_stays_while_nobody_waits() {
    let clients = |path: &Path| {
        let mut slow = attach(path);
        ask(&slow, 0, MOST);
        thread::sleep(super::PATIENCE * 3);
        let mut left = 16 + MOST as usize;
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            let n = slow.read(&mut buffer).unwrap();
            assert!(n > 0, "it is sent away");
            left -= n;
        }
    };
    with_server(None, clients, |_| {});
}

#[test]
fn who_chooses_nothing_gives_its_place_to_who_waits() {
    let clients = |path: &Path| {
        let mut silent: Vec<_> = (0..2).map(|_| UnixStream::connect(path).unwrap()).collect();
        for socket in &mut silent {
            socket.read_exact(&mut [0; 18]).unwrap();
        }
        let idle = [attach(path), attach(path)];
        for mut socket in silent {
            assert_eq!(socket.read(&mut [0]).unwrap(), 0, "it is sent away");
        }
        // Who has chosen may be idle: others wait, and get the place when it goes.
        let waits = UnixStream::connect(path).unwrap();
        let short = Duration::from_millis(600);
        waits.set_read_timeout(Some(short)).unwrap();
        (&waits).read_exact(&mut [0; 18]).unwrap_err();
        let [mut first, second] = idle;
        ask(&first, 0, 512);
        first.read_exact(&mut [0; 16 + 512]).unwrap();
        drop(second);
        waits
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        (&waits).read_exact(&mut [0; 18]).unwrap();
    };
    with_server(Some(2), clients, |_| {});
}
