//! TLS with clients that do what well-made ones do not: leave within the handshake, or send all
//! that they have before they read a reply.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::{
    hand::{Client, EXPORT_NAME, OPTION_MAGIC, READ, WRITE, request},
    served::Served,
    tls::{ACK, SIZE, STARTTLS, others_are_served, served},
};

/// The client's side of TLS, with the papers in the server's directory.
fn connection(served: &Served) -> ClientConnection {
    let directory = served.path("");
    let file = |name: &str| Path::new(&directory).join(name);
    let certificate = |name: &str| CertificateDer::from_pem_file(file(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca-cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("client-key.pem")).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate("client-cert.pem")], key)
        .unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// A client that the server waits for to shake hands.
fn before_the_handshake(served: &Served) -> Client {
    let mut client = Client::greeted(served);
    client.option(STARTTLS, b"");
    assert_eq!(client.answer().0, ACK);
    client
}

/// A client in the transmission phase, with simple replies.
fn attached(served: &Served) -> StreamOwned<ClientConnection, UnixStream> {
    let socket = before_the_handshake(served).0;
    let mut stream = StreamOwned::new(connection(served), socket);
    let option = [
        OPTION_MAGIC.to_be_bytes().as_slice(),
        &EXPORT_NAME.to_be_bytes(),
        &4u32.to_be_bytes(),
        b"disk",
    ]
    .concat();
    stream.write_all(&option).unwrap();
    let mut description = [0; 10];
    stream.read_exact(&mut description).unwrap();
    assert_eq!(description[..8], SIZE.to_be_bytes());
    stream
}

#[test]
fn a_client_that_leaves_within_the_handshake_disturbs_nobody() {
    let served = served();
    let mut hello = Vec::new();
    connection(&served).write_tls(&mut hello).unwrap();
    for len in [0, 1, 5, hello.len() / 2, hello.len() - 1, hello.len()] {
        let mut client = before_the_handshake(&served);
        client.send(&[&hello[..len]]);
    }
    others_are_served(&served);
}

#[test]
fn requests_are_taken_while_replies_wait_to_be_read() {
    let served = served();
    let mut client = attached(&served);
    let half = SIZE as usize / 2;
    let (reads, bytes) = (2, vec![0xc3; half]);
    for _ in 0..reads {
        let read = request(READ, half as u64, half as u32);
        client.write_all(&read).unwrap();
    }
    // More than fits the socket, and so do the replies.
    client.write_all(&request(WRITE, 0, half as u32)).unwrap();
    client.write_all(&bytes).unwrap();
    client.flush().unwrap();
    let mut replies = vec![0; reads * (16 + half) + 16];
    client.read_exact(&mut replies).unwrap();
    assert!(fs::read(served.path("disk.raw")).unwrap()[..half] == bytes);
}
