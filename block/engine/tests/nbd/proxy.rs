//! A socket in front of a server, at which connections can be cut and refused.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// The proxy; it serves until the process ends.
pub struct Proxy {
    pub socket: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    /// Where connections go.
    target: Mutex<PathBuf>,
    refusing: AtomicBool,
    /// Bytes of the server's answers after which a connection is cut; 0 for no limit.
    cut_after: AtomicUsize,
    connections: Mutex<Vec<UnixStream>>,
    accepted: AtomicUsize,
}

impl Proxy {
    /// Listens at `socket` for connections to `target`.
    pub fn new(socket: &Path, target: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(target.to_owned()),
            refusing: AtomicBool::new(false),
            cut_after: AtomicUsize::new(0),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
        });
        let for_thread = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                for_thread.accept(client.unwrap());
            }
        });
        Self {
            socket: socket.to_owned(),
            shared,
        }
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// Cuts every connection, and each new one at once while `refusing`.
    pub fn cut(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::SeqCst);
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through, to `target` from now on if one is given.
    pub fn restore(&self, target: Option<&Path>) {
        if let Some(target) = target {
            *self.shared.target.lock().unwrap() = target.to_owned();
        }
        self.shared.refusing.store(false, Ordering::SeqCst);
    }

    /// Cuts each connection after so many bytes of answers.
    pub fn cut_after(&self, bytes: usize) {
        self.shared.cut_after.store(bytes, Ordering::SeqCst);
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, client: UnixStream) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        let target = self.target.lock().unwrap().clone();
        let server = match UnixStream::connect(target) {
            Ok(server) if !self.refusing.load(Ordering::SeqCst) => server,
            _ => return,
        };
        let both = |stream: &UnixStream| stream.try_clone().unwrap();
        self.connections.lock().unwrap().push(both(&client));
        let (from, to) = (both(&client), both(&server));
        std::thread::spawn(move || carry(from, to, 0));
        let limit = self.cut_after.load(Ordering::SeqCst);
        std::thread::spawn(move || carry(server, client, limit));
    }
}

/// Carries bytes one way until one side ends, or `limit` (if not 0) is reached.
fn carry(mut from: UnixStream, mut to: UnixStream, limit: usize) {
    let mut buffer = vec![0; 65536];
    let mut carried = 0;
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        carried += n;
        if limit > 0 && carried > limit || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
