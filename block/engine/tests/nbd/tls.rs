//! TLS: our server under other people's clients, our client in front of other people's server, and
//! whoever has the wrong papers or none.

use std::{fs, io::Write, net::Shutdown, path::Path};

use strata_graph::Format;

use crate::{
    certificates,
    hand::{Client, EXPORT_NAME, LIST},
    proxy::Proxy,
    served::{Exported, Served, run_client, try_client},
    servers::{Bench, Server, agrees_with_a_model},
};

pub const STARTTLS: u32 = 5;
pub const ACK: u32 = 1;
const ERR_TLS_REQD: u32 = 0x8000_0005;
pub const SIZE: u64 = 8 << 20;

/// A server with certificates, which it wants to be used.
pub fn served() -> Served {
    let prepare = |directory: &Path| {
        certificates::write(directory);
        fs::write(directory.join("disk.raw"), vec![0x5a; SIZE as usize]).unwrap();
    };
    let disk = Exported {
        id: "disk",
        file: "disk.raw",
        format: Format::Raw,
        writable: true,
    };
    Served::new(prepare, vec![disk])
}

/// The export, for libnbd and for our own client.
fn uri(socket: &str, certificates: &str) -> String {
    format!("nbds+unix:///disk?socket={socket}&tls-certificates={certificates}")
}

fn uri_of(served: &Served) -> String {
    uri(&served.path("nbd.sock"), &served.path(""))
}

/// Somebody with the right papers is served, whatever the others have done.
pub fn others_are_served(served: &Served) {
    let info = run_client("nbdinfo", &[&uri_of(served)]);
    assert!(info.contains("with TLS"), "{info}");
    assert!(info.contains("export-size: 8388608"), "{info}");
}

#[test]
fn libnbd_copies_through_it() {
    let served = served();
    others_are_served(&served);
    let (there, back) = (served.path("there"), served.path("back"));
    let bytes: Vec<u8> = (0..SIZE as u32 / 4).flat_map(u32::to_le_bytes).collect();
    fs::write(&there, &bytes).unwrap();
    run_client("nbdcopy", &[&there, &uri_of(&served)]);
    run_client("nbdcopy", &[&uri_of(&served), &back]);
    assert!(fs::read(&back).unwrap() == bytes);
    assert!(fs::read(served.path("disk.raw")).unwrap() == bytes);
}

#[test]
fn qemu_img_reads_through_it() {
    let served = served();
    let object = format!(
        "tls-creds-x509,id=tls,endpoint=client,dir={}",
        served.path("")
    );
    let image = format!(
        "driver=nbd,server.type=unix,server.path={},export=disk,tls-creds=tls,tls-hostname=localhost",
        served.path("nbd.sock")
    );
    let copy = served.path("copy");
    run_client(
        "qemu-img",
        &[
            "convert",
            "--object",
            &object,
            "--image-opts",
            &image,
            "-O",
            "raw",
            &copy,
        ],
    );
    assert!(fs::read(&copy).unwrap() == vec![0x5a; SIZE as usize]);
}

#[test]
fn in_the_clear_nothing_is_disclosed() {
    let served = served();
    let mut client = Client::greeted(&served);
    client.option(LIST, b"");
    assert_eq!(client.answer().0, ERR_TLS_REQD);
    client.option(EXPORT_NAME, b"disk");
    client.expect_closed();
    let plain = try_client("nbdinfo", &[&served.uri("disk")]);
    assert!(!plain.status.success());
    others_are_served(&served);
}

#[test]
fn a_client_without_papers_or_with_others_is_refused() {
    let served = served();
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    certificates::write(&other);
    let none = directory.path().join("none");
    fs::create_dir(&none).unwrap();
    fs::copy(served.path("ca-cert.pem"), none.join("ca-cert.pem")).unwrap();
    for dir in [&other, &none] {
        let uri = uri(&served.path("nbd.sock"), &dir.display().to_string());
        assert!(!try_client("nbdinfo", &[&uri]).status.success());
        let error = Bench::new().open(&uri, Format::Raw, 1).err();
        assert!(error.is_some(), "{}", dir.display());
    }
    others_are_served(&served);
}

#[test]
fn what_is_no_tls_ends_the_connection_only() {
    let served = served();
    // Bytes in the clear that arrive with STARTTLS could be from somebody in between.
    let mut client = Client(served.connect());
    client.get(18);
    let option = [b"IHAVEOPT".as_slice(), &STARTTLS.to_be_bytes(), &[0; 4]].concat();
    client.send(&[&3u32.to_be_bytes(), &option, &[0x16; 512]]);
    client.0.shutdown(Shutdown::Write).unwrap();
    for garbage in [
        b"".as_slice(),
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0xff, 0xff],
        &[0; 70_000],
    ] {
        let mut client = Client::greeted(&served);
        client.option(STARTTLS, b"");
        assert_eq!(client.answer().0, ACK);
        // It may be closed before all is written.
        let _ = client.0.write_all(garbage);
    }
    others_are_served(&served);
}

#[test]
fn our_client_agrees_with_a_model_through_it() {
    let served = served();
    fs::write(served.path("disk.raw"), vec![0; SIZE as usize]).unwrap();
    let bench = Bench::new();
    let disk = bench.open(&uri_of(&served), Format::Raw, 30).unwrap();
    agrees_with_a_model(&bench, &disk);
}

#[test]
fn a_lost_connection_is_made_again_with_tls() {
    let served = served();
    let bench = Bench::new();
    let socket = bench.path("proxy");
    let proxy = Proxy::new(&socket, Path::new(&served.path("nbd.sock")));
    let uri = uri(&socket.display().to_string(), &served.path(""));
    let disk = bench.open(&uri, Format::Raw, 30).unwrap();
    bench.write(&disk, 0, vec![1; 4096]).unwrap();
    let before = proxy.accepted();
    proxy.cut(false);
    bench.write(&disk, 4096, vec![2; 4096]).unwrap();
    assert_eq!(bench.read(&disk, 0, 4096).unwrap(), vec![1; 4096]);
    assert_eq!(bench.read(&disk, 4096, 4096).unwrap(), vec![2; 4096]);
    assert!(proxy.accepted() > before);
}

#[test]
fn our_client_uses_nbdkit_with_tls() {
    let bench = Bench::new();
    certificates::write(bench.directory.path());
    let file = bench.path("disk.raw");
    fs::write(&file, vec![0; SIZE as usize]).unwrap();
    let dir = bench.directory.path().display().to_string();
    let socket = bench.path("nbdkit");
    let papers = format!("--tls-certificates={dir}");
    let server = Server::nbdkit(
        &socket,
        &[
            "--tls=require",
            "--tls-verify-peer",
            &papers,
            "file",
            &file.display().to_string(),
        ],
    );
    let plain = bench.open(&server.uri(), Format::Raw, 1).err().unwrap();
    assert!(plain.contains("it wants TLS: write nbds://"), "{plain}");
    let uri = uri(&socket.display().to_string(), &dir);
    let disk = bench.open(&uri, Format::Raw, 30).unwrap();
    agrees_with_a_model(&bench, &disk);
}

#[test]
fn a_server_with_another_name_is_not_believed() {
    let served = served();
    let uri = format!("{}&tls-hostname=example.org", uri_of(&served));
    let error = Bench::new().open(&uri, Format::Raw, 1).err().unwrap();
    assert!(error.contains("certificate"), "{error}");
    others_are_served(&served);
}
