//! What somebody may have meant who wrote a name that is none.

use super::settings;

/// The setting a path that is none may be meant for, with the names of map entries taken from it: one whose segments
/// differ in case or a few letters, else the one setting that ends alike.
pub fn similar_setting(path: &str) -> Option<String> {
    let segments: Vec<&str> = path.split('/').collect();
    let spelled = settings()
        .filter_map(|setting| {
            let wanted: Vec<&str> = setting.path.split('/').collect();
            if wanted.len() != segments.len() {
                return None;
            }
            let mut meant = Vec::new();
            let mut distance = 0;
            for (wanted, segment) in wanted.iter().zip(&segments) {
                if wanted.starts_with('<') {
                    meant.push(*segment);
                } else {
                    distance += closeness(segment, wanted)?;
                    meant.push(*wanted);
                }
            }
            Some((distance, meant.join("/")))
        })
        .min();
    spelled.map(|(_, path)| path).or_else(|| misplaced(&segments))
}

/// The only setting that ends in the last two segments, or in the last one: it was written in the wrong folder.
fn misplaced(segments: &[&str]) -> Option<String> {
    (1..=2)
        .rev()
        .filter(|count| *count <= segments.len())
        .find_map(|count| {
            let end = segments[segments.len() - count..].join("/");
            let mut fitting = settings().filter(|setting| {
                let folder = setting.path.strip_suffix(&end);
                !setting.is_pattern()
                    && folder.is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
            });
            let only = fitting.next()?;
            fitting.next().is_none().then(|| only.path.to_owned())
        })
}

/// The one of some names that a wrong one may be meant for.
pub fn similar_name<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close = names
        .into_iter()
        .filter_map(|name| Some((closeness(wrong, name)?, name)));
    close.min().map(|(_, name)| name)
}

/// How many letters two names differ in, whatever their case; none when they have nothing to do with each other.
fn closeness(one: &str, other: &str) -> Option<usize> {
    let (one, other) = (one.to_lowercase(), other.to_lowercase());
    let letters = one.chars().count().min(other.chars().count());
    let distance = distance(&one, &other);
    (distance <= (letters / 3).min(2)).then_some(distance)
}

/// The number of letters to insert, remove, replace or swap with their neighbour.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // Row by row of the table of distances between the beginnings of both.
    let mut rows = vec![(0..=other.len()).collect::<Vec<usize>>()];
    for (i, a) in one.iter().enumerate() {
        let above = &rows[i];
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = above[j] + usize::from(a != b);
            let mut least = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && one[i - 1] == *b && *a == other[j - 1] {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_found_by_what_it_looks_like() {
        for (wrong, meant) in [
            ("Writable/Loglevel", Some("Writable/LogLevel")),
            ("writable/loglevel", Some("Writable/LogLevel")),
            (
                "Writable/StoreAndForward/RetryIntreval",
                Some("Writable/StoreAndForward/RetryInterval"),
            ),
            (
                "Writable/StoreAndForwards/MaxRetrysCount",
                Some("Writable/StoreAndForward/MaxRetryCount"),
            ),
            (
                "Writable/Pipeline/Functions/Send/Parameter/Url",
                Some("Writable/Pipeline/Functions/Send/Parameters/Url"),
            ),
            (
                "StoreAndForward/Enabled",
                Some("Writable/StoreAndForward/Enabled"),
            ),
            ("LogLevel", Some("Writable/LogLevel")),
            ("Service/LogLevel", Some("Writable/LogLevel")),
            // There are many.
            ("Host", None),
            ("Custom/Section", None),
        ] {
            assert_eq!(similar_setting(wrong).as_deref(), meant, "{wrong}");
        }
    }

    #[test]
    fn a_name_is_found_among_some() {
        let names = ["Url", "MimeType", "Method"];
        assert_eq!(similar_name("mimetyp", names), Some("MimeType"));
        assert_eq!(similar_name("Ulr", names), Some("Url"));
        assert_eq!(similar_name("Header", names), None);
    }
}
