//! A client that speaks the protocol by hand, for what well-made clients do not say.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use crate::served::Served;

pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const DISC: u16 = 2;
pub const EXPORT_NAME: u32 = 1;
pub const LIST: u32 = 3;

/// A client that speaks the protocol by hand.
pub struct Client(pub UnixStream);

impl Client {
    /// Connected, greeted.
    pub fn greeted(served: &Served) -> Self {
        let mut client = Self(served.connect());
        // Long enough for a busy machine; a test that waits so long fails.
        let patience = Some(Duration::from_secs(30));
        client.0.set_read_timeout(patience).unwrap();
        client.0.set_write_timeout(patience).unwrap();
        let greeting = client.get(18);
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(&greeting[16..], [0, 3]);
        client.send(&[&3u32.to_be_bytes()]);
        client
    }

    /// In the transmission phase, with simple replies.
    pub fn attached(served: &Served) -> Self {
        let mut client = Self::greeted(served);
        client.option(EXPORT_NAME, b"disk");
        client.get(10);
        client
    }

    pub fn send(&mut self, parts: &[&[u8]]) {
        self.0.write_all(&parts.concat()).unwrap();
    }

    pub fn get(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn option(&mut self, option: u32, data: &[u8]) {
        let len = (data.len() as u32).to_be_bytes();
        self.send(&[
            &OPTION_MAGIC.to_be_bytes(),
            &option.to_be_bytes(),
            &len,
            data,
        ]);
    }

    pub fn request(&mut self, kind: u16, offset: u64, len: u32) {
        self.send(&[&request(kind, offset, len)]);
    }

    /// Type and data of a reply to an option.
    pub fn answer(&mut self) -> (u32, Vec<u8>) {
        let head = self.get(20);
        assert_eq!(head[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
        let len = u32::from_be_bytes(head[16..20].try_into().unwrap());
        (kind, self.get(len as usize))
    }

    /// Error and data of a simple reply.
    pub fn reply(&mut self, len: usize) -> (u32, Vec<u8>) {
        let head = self.get(16);
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes());
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        (error, self.get(if error == 0 { len } else { 0 }))
    }

    /// The server closes the connection and says nothing more.
    pub fn expect_closed(mut self) {
        let mut rest = Vec::new();
        // A reset says the same: bytes of ours were not read.
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{rest:?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

pub fn request(kind: u16, offset: u64, len: u32) -> Vec<u8> {
    [
        REQUEST_MAGIC.to_be_bytes().as_slice(),
        &[0, 0],
        &kind.to_be_bytes(),
        &7u64.to_be_bytes(),
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
    ]
    .concat()
}
