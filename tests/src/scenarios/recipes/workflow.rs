//! Workflows of GitHub Actions: what their steps run.

use crate::error::{Context, Outcome, ensure};
use yaml_rust2::{Yaml, YamlLoader};

/// The scripts of a workflow's only job, in order. A step runs something, or uses something.
pub fn scripts(text: &str) -> Outcome<Vec<String>> {
    let documents = YamlLoader::load_from_str(text).context("the workflow")?;
    let workflow = documents.first().context("an empty workflow")?;
    ensure(!workflow["on"].is_badvalue(), || "no 'on'".to_owned())?;
    let jobs = workflow["jobs"].as_hash().context("no jobs")?;
    let (_, job) = jobs.iter().next().context("no job")?;
    ensure(jobs.len() == 1 && job["runs-on"].as_str().is_some(), || {
        format!("{job:?}")
    })?;
    let steps = job["steps"].as_vec().context("no steps")?;
    let mut scripts = Vec::new();
    for step in steps {
        match (&step["run"], &step["uses"]) {
            (Yaml::String(script), Yaml::BadValue) => scripts.push(script.clone()),
            (Yaml::BadValue, Yaml::String(action)) if action.contains('@') => {}
            _ => ensure(false, || format!("{step:?}"))?,
        }
    }
    Ok(scripts)
}
