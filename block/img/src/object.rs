//! `--object`: what images may need. Encrypted images need secrets; since these are not supported,
//! no secret is ever asked for, and none is read.

use strata_storage::split_options;

/// Why an object cannot be had.
pub fn refused(object: &str) -> Option<String> {
    let parts = split_options(object.as_ref());
    let mut parts = parts.iter().map(|part| part.to_string_lossy());
    let first = parts.next().unwrap_or_default();
    let kind = first.strip_prefix("qom-type=").unwrap_or(&first);
    if kind != "secret" {
        return Some(format!("--object {kind} is not supported: only secret is"));
    }
    let has_id = parts.any(|part| part.starts_with("id="));
    if !has_id {
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
