use super::*;

#[test]
fn blocks_are_found_by_their_marks() {
    let document =
        "words\n\n<!-- recipe: one -->\n\n    a \\\n        b\n\n    c\n\nmore\n\n    not this\n";
    let expected = Recipe {
        name: "one".to_owned(),
        text: "a \\\n    b\n\nc\n\n".to_owned(),
    };
    assert_eq!(recipes(document).unwrap(), [expected]);
    assert!(recipes("<!-- recipe: one -->\nwords\n").is_err());
    assert!(recipes("<!-- recipe: one -->\n\nwords\n").is_err());
}

#[test]
fn workflows_of_the_documents_are_understood() {
    for recipe in recipes(CI).unwrap() {
        if recipe.name.starts_with("actions") {
            assert!(!workflow::scripts(&recipe.text).unwrap().is_empty());
        }
    }
}

#[test]
fn steps_are_scripts_and_others_are_passed_over() {
    let text = "on: push\njobs:\n  a:\n    runs-on: x\n    steps:\n      - uses: y@v1\n      - run: |\n          b\n          c\n      - run: d\n";
    assert_eq!(workflow::scripts(text).unwrap(), ["b\nc\n", "d"]);
    for wrong in ["a: [", "on: push\n", "on: push\njobs: {a: {steps: []}}\n"] {
        assert!(workflow::scripts(wrong).is_err(), "{wrong}");
    }
}
