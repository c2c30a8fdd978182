//! A client as a test needs one: it knows what it waits for, and gives up when that never comes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longer than anything here takes: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The prompt of HMP.
pub const PROMPT: &str = "(strata) ";

/// One connection.
pub struct Client {
    pub stream: UnixStream,
    /// Received, not yet given to the test.
    received: Vec<u8>,
}

impl Client {
    /// Connects, and reads nothing.
    pub fn connect(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("the monitor listens");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client {
            stream,
            received: Vec::new(),
        }
    }

    /// Connects to QMP and negotiates.
    pub fn qmp(path: &Path) -> Client {
        let mut client = Client::connect(path);
        assert!(client.line().starts_with(r#"{"QMP": "#));
        assert_eq!(
            client.ask(r#"{"execute": "qmp_capabilities"}"#),
            r#"{"return": {}}"#
        );
        client
    }

    /// Connects to HMP and reads up to the first prompt.
    pub fn hmp(path: &Path) -> Client {
        let mut client = Client::connect(path);
        client.until(PROMPT);
        client
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the monitor reads");
    }

    /// Sends a request, and reads one line.
    pub fn ask(&mut self, request: &str) -> String {
        self.send(request);
        self.line()
    }

    /// The next line, without its CR LF.
    pub fn line(&mut self) -> String {
        self.until("\r\n")
    }

    /// The text up to `end`, which is taken and not returned.
    pub fn until(&mut self, end: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.received).into_owned();
            if let Some(at) = text.find(end) {
                self.received.drain(..at + end.len());
                return text[..at].to_owned();
            }
            let mut buffer = [0; 4096];
            let length = self
                .stream
                .read(&mut buffer)
                .expect("an answer within the time");
            assert_ne!(length, 0, "the monitor hung up after {text:?}");
            self.received.extend_from_slice(&buffer[..length]);
        }
    }

    /// Everything up to the end of the connection.
    pub fn rest(mut self) -> String {
        let mut rest = std::mem::take(&mut self.received);
        // A reset is an end as well: the monitor may close with input unread.
        let _ = self.stream.read_to_end(&mut rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}
