//! What is done to the layers.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

use super::{Kept, World, images};

/// How often each operation has been done, and refused.
#[derive(Default)]
pub struct Counts(BTreeMap<&'static str, (u32, u32)>);

impl Counts {
    fn count(&mut self, name: &'static str, done: bool) {
        let (yes, no) = self.0.entry(name).or_default();
        *if done { yes } else { no } += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (name, (yes, no)) in &other.0 {
            let sum = self.0.entry(name).or_default();
            *sum = (sum.0 + yes, sum.1 + no);
        }
    }

    /// A test in which nothing happens shows nothing.
    pub fn check_all_happened(&self) {
        for name in ALL {
            let done = self.0.get(name).map_or(0, |(done, _)| *done);
            assert!(done > 0, "'{name}' was never done");
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, (yes, no)) in &self.0 {
            writeln!(f, "{name}: {yes} done, {no} refused")?;
        }
        Ok(())
    }
}

/// What has to have happened.
const ALL: [&str; 13] = [
    "snapshot",
    "snapshot onto a node",
    "transaction",
    "resize",
    "internal snapshot",
    "internal snapshot deleted",
    "stream",
    "stream into the middle",
    "commit of the middle",
    "commit of the top",
    "commit completed",
    "commit left",
    "job cancelled",
];

/// A layer of a disk.
pub struct Layer {
    pub file: String,
    pub node: String,
    pub format: String,
}

/// Layers of a disk at most.
const MOST: usize = 7;

impl World {
    /// The layers of a disk, from the top down.
    pub fn layers(&mut self, which: usize) -> Vec<Layer> {
        loop {
            if let Some(layers) = self.layers_now(which) {
                return layers;
            }
        }
    }

    /// The same; `None` if a job has ended between the two questions that this takes, and with it a
    /// layer.
    fn layers_now(&mut self, which: usize) -> Option<Vec<Layer>> {
        let disks = self.command("query-block", &json!({})).unwrap();
        let id = self.disks[which].id;
        let is_it = |disk: &&Value| disk["device"] == id;
        let disk = disks.as_array().unwrap().iter().find(is_it).unwrap();
        let nodes = self.command("query-named-block-nodes", &json!({"flat": true}));
        let nodes = nodes.unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut layers = Vec::new();
        let mut image = &disk["inserted"]["image"];
        while !image.is_null() {
            let is_it = |node: &&Value| node["file"] == image["filename"];
            let node = nodes.as_array().unwrap().iter().find(is_it)?;
            layers.push(Layer {
                file: self.serve.path(&text(&image["filename"])),
                node: text(&node["node-name"]),
                format: text(&node["drv"]),
            });
            image = &image["backing-image"];
        }
        Some(layers)
    }

    /// One operation on one disk, or on both. It may be refused: then nothing has changed.
    pub fn operate(&mut self) {
        let which = self.random.below(2) as usize;
        match self.random.below(16) {
            0 | 1 => self.snapshot(which),
            2 => self.snapshot_onto_node(which),
            3 => self.transaction(),
            4 => self.resize(which),
            5 => self.keep(which),
            6 => self.give_up(which),
            7 | 8 => self.stream(which),
            9 => self.stream_into_middle(which),
            10 => self.commit_middle(which),
            11 | 12 => self.commit_top(which),
            _ => self.bother_a_job(),
        }
    }

    fn new_file(&mut self) -> String {
        self.next_file += 1;
        self.serve.path(&format!("layer{}", self.next_file))
    }

    fn try_to(&mut self, what: &'static str, name: &str, arguments: &Value) -> bool {
        let done = self.command(name, arguments);
        self.counts.count(what, done.is_ok());
        if let Err(error) = &done {
            // A job is in the way, mostly.
            assert!(!error.contains('\n') && !error.is_empty(), "{error}");
        }
        done.is_ok()
    }

    fn snapshot(&mut self, which: usize) {
        if self.layers(which).len() >= MOST {
            return;
        }
        let file = self.new_file();
        let format = if self.random.one_in(5) {
            "qed"
        } else {
            "qcow2"
        };
        let arguments =
            json!({"device": self.disks[which].id, "snapshot-file": file, "format": format});
        if self.try_to("snapshot", "blockdev-snapshot-sync", &arguments) {
            self.disks[which].commit = None;
        }
    }

    /// Onto an overlay made by hand.
    fn snapshot_onto_node(&mut self, which: usize) {
        let layers = self.layers(which);
        if layers.len() >= MOST {
            return;
        }
        let file = self.new_file();
        let size = self.disks[which].model.len() as u64;
        images::overlay(&file, (&layers[0].file, &layers[0].format), size);
        let node = format!("n{}", self.next_file);
        let file = json!({"driver": "file", "filename": file});
        let add = json!({"driver": "qcow2", "node-name": node, "backing": null, "file": file});
        self.command("blockdev-add", &add).unwrap();
        let arguments = json!({"node": self.disks[which].id, "overlay": node});
        if self.try_to("snapshot onto a node", "blockdev-snapshot", &arguments) {
            self.disks[which].commit = None;
        } else {
            self.command("blockdev-del", &json!({"node-name": node}))
                .unwrap();
        }
    }

    /// Both disks at once; perhaps with something that fails.
    fn transaction(&mut self) {
        if (0..2).any(|which| self.layers(which).len() >= MOST) {
            return;
        }
        let mut actions = Vec::new();
        for id in ["a", "b"] {
            let file = self.new_file();
            let data = json!({"device": id, "snapshot-file": file, "snapshot-node-name": format!("t{}", self.next_file)});
            actions.push(json!({"type": "blockdev-snapshot-sync", "data": data}));
            let name = format!("bitmap{}", self.next_file);
            let data = json!({"node": id, "name": name, "persistent": self.random.one_in(2)});
            actions.push(json!({"type": "block-dirty-bitmap-add", "data": data}));
        }
        if self.random.one_in(3) {
            let data = json!({"node": "a", "name": "nosuch"});
            actions.push(json!({"type": "block-dirty-bitmap-clear", "data": data}));
        }
        if self.try_to("transaction", "transaction", &json!({"actions": actions})) {
            self.disks.iter_mut().for_each(|disk| disk.commit = None);
        }
    }

    fn resize(&mut self, which: usize) {
        let shrink = self.random.one_in(3) && self.layers(which)[0].format == "qcow2";
        let now = self.disks[which].model.len() as u64;
        let by = self.random.below(512) * 512;
        let size = if shrink && now > (1 << 20) {
            now - by
        } else {
            now + by
        };
        let id = self.disks[which].id;
        let arguments = json!({"device": id, "size": size});
        if self.try_to("resize", "block_resize", &arguments) {
            let disk = &mut self.disks[which];
            disk.model.resize(size as usize, 0);
            disk.commit = None;
            disk.client.connect_again();
            assert_eq!(disk.client.size(), size);
        }
    }

    fn keep(&mut self, which: usize) {
        let layers = self.layers(which);
        self.next_file += 1;
        let name = format!("kept{}", self.next_file);
        let arguments = json!({"device": self.disks[which].id, "name": name});
        let command = "blockdev-snapshot-internal-sync";
        if self.try_to("internal snapshot", command, &arguments) {
            let alone = layers.len() == 1;
            self.kept.push(Kept {
                file: layers[0].file.clone(),
                name,
                content: alone.then(|| self.disks[which].model.clone()),
            });
        }
    }

    fn give_up(&mut self, which: usize) {
        let layers = self.layers(which);
        let found = self
            .kept
            .iter()
            .position(|kept| kept.file == layers[0].file);
        let Some(found) = found else {
            return;
        };
        let name = self.kept[found].name.clone();
        let arguments = json!({"device": self.disks[which].id, "name": name});
        let command = "blockdev-snapshot-delete-internal-sync";
        if self.try_to("internal snapshot deleted", command, &arguments) {
            self.kept.remove(found);
        }
    }

    /// What every merge is given.
    fn merge(&mut self, which: usize) -> Value {
        self.next_file += 1;
        let speed = *self.random.pick(&[0u64, 1 << 20, 16 << 20]);
        json!({
            "device": self.disks[which].id,
            "job-id": format!("job{}", self.next_file),
            "speed": speed,
            "auto-finalize": !self.random.one_in(4),
        })
    }

    fn stream(&mut self, which: usize) {
        let layers = self.layers(which);
        let mut arguments = self.merge(which);
        match self.random.below(layers.len() as u64 + 1) as usize {
            0 => {}
            base if base < layers.len() => arguments["base-node"] = json!(layers[base].node),
            _ => arguments["bottom"] = json!(layers[layers.len() / 2].node),
        }
        self.try_to("stream", "block-stream", &arguments);
        self.let_jobs_go_on();
    }

    fn stream_into_middle(&mut self, which: usize) {
        let layers = self.layers(which);
        if layers.len() < 3 {
            return self.snapshot(which);
        }
        let top = 1 + self.random.below(layers.len() as u64 - 2) as usize;
        let mut arguments = self.merge(which);
        arguments["device"] = json!(layers[top].node);
        if self.random.one_in(2) {
            let below = layers.len() - top - 1;
            let base = top + 1 + self.random.below(below as u64) as usize;
            arguments["base-node"] = json!(layers[base].node);
        }
        self.try_to("stream into the middle", "block-stream", &arguments);
        self.let_jobs_go_on();
    }

    fn commit_middle(&mut self, which: usize) {
        let layers = self.layers(which);
        if layers.len() < 3 {
            return self.snapshot(which);
        }
        let top = 1 + self.random.below(layers.len() as u64 - 2) as usize;
        let below = layers.len() - top - 1;
        let base = top + 1 + self.random.below(below as u64) as usize;
        let mut arguments = self.merge(which);
        arguments["top-node"] = json!(layers[top].node);
        arguments["base-node"] = json!(layers[base].node);
        self.try_to("commit of the middle", "block-commit", &arguments);
        self.let_jobs_go_on();
    }

    fn commit_top(&mut self, which: usize) {
        let layers = self.layers(which);
        if layers.len() < 2 {
            return self.snapshot(which);
        }
        let base = 1 + self.random.below(layers.len() as u64 - 1) as usize;
        let mut arguments = self.merge(which);
        arguments["base-node"] = json!(layers[base].node);
        if self.try_to("commit of the top", "block-commit", &arguments) {
            let [old_top, base] = [0, base].map(|place| layers[place].file.clone());
            self.disks[which].commit = Some((old_top, base));
        }
        self.let_jobs_go_on();
    }

    fn jobs(&mut self) -> Vec<Value> {
        let jobs = self.command("query-block-jobs", &json!({})).unwrap();
        jobs.as_array().unwrap().clone()
    }

    /// Lets jobs go on for a moment, or to their end.
    fn let_jobs_go_on(&mut self) {
        if self.random.one_in(2) {
            self.end_jobs();
        } else {
            self.work_a_little();
        }
    }

    fn bother_a_job(&mut self) {
        let jobs = self.jobs();
        if jobs.is_empty() {
            return;
        }
        let job = self.random.pick(&jobs).clone();
        let id = &job["device"];
        match self.random.below(6) {
            0 => drop(self.command("job-pause", &json!({"id": id}))),
            1 => drop(self.command("job-resume", &json!({"id": id}))),
            2 => {
                let arguments = json!({"device": id, "speed": 64 << 20});
                drop(self.command("block-job-set-speed", &arguments));
            }
            3 => drop(self.command("job-finalize", &json!({"id": id}))),
            _ => {
                self.try_to("job cancelled", "job-cancel", &json!({"id": id}));
            }
        }
    }

    /// Brings all jobs to their end, while the clients work on.
    pub fn end_jobs(&mut self) {
        loop {
            let jobs = self.jobs();
            if jobs.is_empty() {
                return;
            }
            for job in jobs {
                self.end_job(&job);
            }
            self.work_a_little();
        }
    }

    fn end_job(&mut self, job: &Value) {
        let id = &job["device"];
        if job["paused"] == true {
            let _ = self.command("job-resume", &json!({"id": id}));
        }
        if job["status"] == "pending" {
            let _ = self.command("job-finalize", &json!({"id": id}));
        }
        let unlimited = json!({"device": id, "speed": 0});
        let _ = self.command("block-job-set-speed", &unlimited);
        if job["ready"] != true {
            return;
        }
        if self.random.one_in(4) {
            self.try_to("commit left", "block-job-cancel", &json!({"device": id}));
        } else {
            self.try_to("commit completed", "job-complete", &json!({"id": id}));
        }
    }
}
