use std::{
    cell::RefCell,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    rc::Rc,
    sync::mpsc::channel,
    thread::JoinHandle,
};

use strata_graph::{DiskOptions, Format, chain::ImageOptions};
use strata_storage::nbd::wire::Address;

use super::Bench;
use crate::{
    api::{
        BlockExportAdd, BlockExportDel, Cmd, Event, ExportInfo, ExportType, NbdServerAdd,
        NbdServerRemove, NbdServerStart, RemoveMode, Reply, Writable,
    },
    engine::{DiskSpec, ExportSpec},
};

/// `nbd-server-start` at a path.
fn start_at(path: PathBuf, max_connections: Option<u32>, all: Option<Writable>) -> Cmd {
    Cmd::NbdServerStart(NbdServerStart {
        max_connections,
        all,
        ..NbdServerStart::at(Address::Unix(path))
    })
}

impl Bench {
    /// A disk of 1 MiB, attached to `device`.
    fn disk(&self, id: &str, device: &str, read_only: bool) {
        let path = self.path(id);
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let spec = DiskSpec {
            path,
            image: ImageOptions {
                format: Some(Format::Raw),
                read_only,
                node_name: Some(format!("{id}-node")),
                ..Default::default()
            },
            disk: DiskOptions {
                id: id.to_owned(),
                device: device.to_owned(),
                ..Default::default()
            },
        };
        self.engine.open_disk(spec).unwrap();
    }

    /// The error's text, or nothing.
    fn export(&self, cmd: Cmd) -> String {
        let result = self.command(cmd);
        result.err().map(|error| error.desc).unwrap_or_default()
    }

    fn start(&self, socket: &str) -> String {
        self.export(start_at(self.path(socket), None, None))
    }

    fn add(&self, device: &str, name: Option<&str>, writable: bool) -> String {
        self.export(Cmd::NbdServerAdd(NbdServerAdd {
            device: device.to_owned(),
            name: name.map(str::to_owned),
            writable: Some(writable),
            ..NbdServerAdd::default()
        }))
    }

    fn exports(&self) -> Vec<ExportInfo> {
        match self.command(Cmd::QueryBlockExports) {
            Ok(Reply::Exports(exports)) => exports,
            other => panic!("{other:?}"),
        }
    }

    fn deleted(&self) -> Vec<String> {
        let id = |event: &Event| match event {
            Event::ExportDeleted { id } => Some(id.clone()),
            _ => None,
        };
        self.events.borrow().iter().filter_map(id).collect()
    }

    /// Polls until `condition` holds.
    pub(super) fn poll_until(&self, condition: impl Fn() -> bool) {
        while !condition() {
            self.engine.poll();
        }
    }
}

/// Lets a client attach to an export and read a block; the thread ends when the client has been
/// sent away.
fn attach(bench: &Bench, socket: &str, name: &'static str) -> JoinHandle<()> {
    let socket = bench.path(socket);
    let (attached, wait) = channel();
    let thread = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        let len = (name.len() as u32).to_be_bytes();
        let hello = [&[0, 0, 0, 3], b"IHAVEOPT".as_slice(), &[0, 0, 0, 1], &len];
        let read = [
            &0x2560_9513_u32.to_be_bytes(),
            [0; 20].as_slice(),
            &[0, 0, 2, 0],
        ];
        let all = [&hello.concat(), name.as_bytes(), &read.concat()].concat();
        stream.write_all(&all).unwrap();
        // The greeting, the answer to EXPORT_NAME, and a reply with one block.
        let mut answers = [0; 18 + 10 + 16 + 512];
        stream.read_exact(&mut answers).unwrap();
        assert_eq!(answers[44..], [7; 512]);
        attached.send(()).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    });
    bench.poll_until(|| wait.try_recv().is_ok());
    thread
}

#[test]
fn a_server_is_started_once_and_exports_come_and_go() {
    let bench = Bench::new();
    bench.disk("a", "", false);
    assert_eq!(bench.add("a", None, true), "NBD server not running");
    assert_eq!(bench.export(Cmd::NbdServerStop), "NBD server not running");
    assert_eq!(bench.start("sock"), "");
    assert_eq!(bench.start("other"), "NBD server already running");
    assert_eq!(bench.add("a", None, true), "");
    assert_eq!(bench.add("a-node", Some("again"), false), "");
    assert_eq!(
        bench.add("a", None, true),
        "NBD server already has export named 'a'"
    );
    assert_eq!(
        bench.add("b", None, true),
        "Cannot find device='b' nor node-name='b'"
    );
    let info = |id: &str| ExportInfo {
        id: id.to_owned(),
        kind: ExportType::Nbd,
        node_name: "a-node".to_owned(),
        shutting_down: false,
    };
    assert_eq!(bench.exports(), [info("a"), info("again")]);
    let remove = |name: &str| {
        bench.export(Cmd::NbdServerRemove(NbdServerRemove {
            name: name.to_owned(),
            mode: None,
        }))
    };
    assert_eq!(remove("a"), "");
    assert_eq!(remove("c"), "Export 'c' is not found");
    bench.poll_until(|| bench.exports() == [info("again")]);
    assert_eq!(bench.deleted(), ["a"]);
    assert_eq!(bench.export(Cmd::NbdServerStop), "");
    assert_eq!(bench.deleted(), ["a", "again"]);
    assert!(!bench.path("sock").exists());
    assert_eq!(bench.start("sock"), "");
}

#[test]
fn exports_have_ids_of_their_own() {
    let bench = Bench::new();
    bench.disk("a", "", false);
    bench.start("sock");
    let add = |id: &str, name: Option<&str>| {
        bench.export(Cmd::BlockExportAdd(Box::new(BlockExportAdd {
            name: name.map(str::to_owned),
            writable: Some(true),
            ..BlockExportAdd::new(ExportType::Nbd, id, "a-node")
        })))
    };
    assert_eq!(add("one", None), "");
    assert_eq!(
        add("one", Some("x")),
        "Block export id 'one' is already in use"
    );
    assert_eq!(
        add("two", None),
        "NBD server already has export named 'a-node'"
    );
    assert_eq!(add("two", Some("x")), "");
    let delete = |id: &str| {
        bench.export(Cmd::BlockExportDel(BlockExportDel {
            id: id.to_owned(),
            mode: None,
        }))
    };
    assert_eq!(delete("x"), "Export 'x' is not found");
    assert_eq!(delete("two"), "");
    bench.poll_until(|| bench.exports().len() == 1);
    assert_eq!(bench.deleted(), ["two"]);
}

#[test]
fn only_disks_that_nobody_else_writes_are_exported_for_writing() {
    let bench = Bench::new();
    bench.disk("guest", "virtio-blk-pci", false);
    bench.disk("locked", "", true);
    bench.start("sock");
    assert!(
        bench
            .add("guest", None, true)
            .contains("in use by the guest")
    );
    assert_eq!(bench.add("guest", None, false), "");
    // As QEMU does it.
    assert_eq!(bench.add("locked", None, true), "");
    let strict = bench.export(Cmd::BlockExportAdd(Box::new(BlockExportAdd {
        writable: Some(true),
        ..BlockExportAdd::new(ExportType::Nbd, "id", "locked")
    })));
    assert!(strict.contains("read-only"), "{strict}");
}

#[test]
fn all_disks_are_exported_or_none() {
    let bench = Bench::new();
    bench.disk("a", "", false);
    bench.disk("b", "virtio-blk-pci", false);
    let start_all = |writable| {
        bench.export(start_at(
            bench.path("sock"),
            Some(1),
            Some(Writable(writable)),
        ))
    };
    assert!(start_all(true).contains("in use by the guest"));
    assert!(bench.exports().is_empty() && !bench.path("sock").exists());
    assert_eq!(start_all(false), "");
    let ids: Vec<_> = bench
        .exports()
        .into_iter()
        .map(|export| export.id)
        .collect();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn an_export_in_use_goes_only_by_force_and_its_event_comes_when_its_client_has_gone() {
    let bench = Bench::new();
    bench.disk("a", "", false);
    bench.start("sock");
    bench.add("a", None, true);
    let client = attach(&bench, "sock", "a");
    let remove = |hard| {
        let name = "a".to_owned();
        let mode = if hard {
            RemoveMode::Hard
        } else {
            RemoveMode::Safe
        };
        bench.export(Cmd::NbdServerRemove(NbdServerRemove {
            name,
            mode: Some(mode),
        }))
    };
    assert!(remove(false).contains("still in use"));
    assert_eq!(remove(true), "");
    bench.poll_until(|| bench.exports().is_empty());
    assert_eq!(bench.deleted(), ["a"]);
    client.join().unwrap();
}

#[test]
fn shutting_down_sends_clients_away() {
    let bench = Bench::new();
    bench.disk("a", "", false);
    let (unix, tcp) = (
        Address::Unix(bench.path("sock")),
        Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 0,
        },
    );
    let spec = |name: &str| ExportSpec {
        disk: "a".to_owned(),
        name: Some(name.to_owned()),
        ..Default::default()
    };
    let export = |address: &Address, name| bench.engine.export_at(address, None, spec(name));
    assert_eq!(export(&unix, "one"), Ok(unix.clone()));
    assert_eq!(export(&unix, "two"), Ok(unix.clone()));
    assert!(matches!(
        export(&tcp, "three"),
        Ok(Address::Tcp { port: 1.., .. })
    ));
    assert!(export(&tcp, "three").is_err());
    let client = attach(&bench, "sock", "two");
    assert!(bench.engine.shut_down().is_empty());
    client.join().unwrap();
    assert!(!bench.path("sock").exists());
    assert_eq!(bench.deleted(), ["one", "two", "three"]);
}

#[test]
fn a_disk_that_is_exported_is_not_closed() {
    let bench = Bench::new();
    bench.disk("disk", "", true);
    assert_eq!(bench.start("nbd"), "");
    assert_eq!(bench.add("disk", Some("exp"), false), "");
    let closed = |bench: &Bench| {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        let reply = Box::new(move |reply| *slot.borrow_mut() = Some(reply));
        bench.engine.drive_del("disk".to_owned(), reply);
        while result.borrow().is_none() {
            bench.engine.poll();
        }
        result.take().unwrap()
    };
    let busy = closed(&bench).unwrap_err().desc;
    assert_eq!(
        busy,
        "Node 'disk' is busy: it is exported as 'exp': delete that export first"
    );
    bench.command(Cmd::NbdServerStop).unwrap();
    closed(&bench).unwrap();
}
