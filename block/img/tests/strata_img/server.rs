//! A program that serves an image.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

/// A server at a socket; killed when dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    pub fn start(socket: &Path, program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program).args(args).spawn().unwrap();
        while !socket.exists() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{program} {args:?} has ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self {
            child,
            socket: socket.to_owned(),
        }
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
