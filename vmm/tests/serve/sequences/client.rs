//! A client of one NBD export, which sends one request at a time.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

/// Bytes that are read or written by one request at most.
const MOST: u64 = 1 << 20;

pub struct Client {
    stream: UnixStream,
    path: String,
    name: String,
    size: u64,
}

impl Client {
    /// Connects to the export `name` at the socket `path`.
    pub fn connect(path: &str, name: &str) -> Self {
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let patience = Some(Duration::from_secs(60));
        stream.set_read_timeout(patience).unwrap();
        let mut client = Self {
            stream,
            path: path.to_owned(),
            name: name.to_owned(),
            size: 0,
        };
        client.shake_hands();
        client
    }

    /// The same export once more: it may have another size.
    pub fn connect_again(&mut self) {
        *self = Self::connect(&self.path, &self.name);
    }

    /// Bytes of the export when the client came.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn shake_hands(&mut self) {
        let greeting = self.take(18);
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        // Fixed newstyle, no zeroes.
        self.send(&3u32.to_be_bytes());
        let name = self.name.clone();
        let mut option = b"IHAVEOPT".to_vec();
        option.extend(7u32.to_be_bytes());
        option.extend(u32::try_from(name.len() + 6).unwrap().to_be_bytes());
        option.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        option.extend(name.as_bytes());
        option.extend(0u16.to_be_bytes());
        self.send(&option);
        loop {
            let head = self.take(20);
            let reply = u32::from_be_bytes(head[12..16].try_into().unwrap());
            let len = u32::from_be_bytes(head[16..].try_into().unwrap());
            let body = self.take(len as usize);
            match reply {
                1 => return,
                // NBD_REP_INFO: the export itself.
                3 if body[..2] == [0, 0] => {
                    self.size = u64::from_be_bytes(body[2..10].try_into().unwrap());
                }
                3 => {}
                other => panic!(
                    "option reply {other:#x}: {}",
                    String::from_utf8_lossy(&body)
                ),
            }
        }
    }

    pub fn read(&mut self, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let at = bytes.len() as u64;
            let piece = (len - at).min(MOST);
            self.request(0, offset + at, piece, &[]);
            bytes.extend(self.take(piece as usize));
        }
        bytes
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.request(1, offset, bytes.len() as u64, bytes);
    }

    pub fn flush(&mut self) {
        self.request(3, 0, 0, &[]);
    }

    pub fn trim(&mut self, offset: u64, len: u64) {
        self.request(4, offset, len, &[]);
    }

    pub fn zero(&mut self, offset: u64, len: u64) {
        self.request(6, offset, len, &[]);
    }

    fn request(&mut self, kind: u16, offset: u64, len: u64, data: &[u8]) {
        let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
        request.extend(0u16.to_be_bytes());
        request.extend(kind.to_be_bytes());
        request.extend(7u64.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(u32::try_from(len).unwrap().to_be_bytes());
        request.extend(data);
        self.send(&request);
        let reply = self.take(16);
        let error = u32::from_be_bytes(reply[4..8].try_into().unwrap());
        assert_eq!(error, 0, "request {kind} of {len} bytes at {offset}");
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }
}
