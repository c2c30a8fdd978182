//! `--object`: what images may need. Encrypted images need secrets; since these are not supported,
//! no secret is ever asked for, and none is read.

/// Why an object cannot be had.
pub fn refused(object: &str) -> Option<String> {
    let marked = object.replace(",,", "\0");
    let mut parts = marked.split(',');
    let first = parts.next().unwrap_or_default();
    let kind = first.strip_prefix("qom-type=").unwrap_or(first);
    if kind != "secret" {
        return Some(format!("--object {kind} is not supported: only secret is"));
    }
    let names: Vec<&str> = parts
        .filter_map(|part| Some(part.split_once('=')?.0))
        .collect();
    if !names.contains(&"id") {
        return Some("Parameter 'id' is missing".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::refused;

    #[test]
    fn secrets_are_taken() {
        assert_eq!(refused("secret,id=s,data=x,,y"), None);
        assert_eq!(refused("secret,file=x,id=s"), None);
        assert!(
            refused("secret,data=x")
                .unwrap()
                .contains("'id' is missing")
        );
        assert!(
            refused("throttle-group,id=x")
                .unwrap()
                .contains("only secret")
        );
    }
}
