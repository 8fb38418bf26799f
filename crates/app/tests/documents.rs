//! What the documents say, where the code knows it better.

use std::path::Path;

const BEGIN: &str = "<!-- settings: begin -->\n";
const END: &str = "<!-- settings: end -->";

/// The table in the README is the one of the code. When this fails, put the output of `make settings-table` between the
/// two marks.
#[test]
fn the_readme_has_the_table_of_all_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let (_, rest) = readme
        .split_once(BEGIN)
        .expect("the README marks where the table begins");
    let (table, _) = rest
        .split_once(END)
        .expect("the README marks where the table ends");

    let (table, expected) = (table.trim(), edgehold::settings_table_markdown());
    for (written, expected) in table.lines().zip(expected.lines()) {
        assert_eq!(written, expected, "run `make settings-table`");
    }
    assert_eq!(
        table.lines().count(),
        expected.lines().count(),
        "run `make settings-table`"
    );
}
