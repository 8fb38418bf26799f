//! What the original left in Redis, read from a real server: as it was recorded, in pages, damaged and huge.

use std::{collections::BTreeMap, sync::Arc};

use edgehold_bus_redis::{Access, Backlog, ConnectionError, ConnectionSettings, Credentials, LeftBehind};
use edgehold_core::{Fixed, SecretText};
use edgehold_test_support::{Redis, RedisAnswer, RedisClient};
use serde_json::Value;

const SERVICE_KEY: &str = "app-left";

async fn backlog(server: &Redis) -> Backlog {
    backlog_of(server, SERVICE_KEY).await
}

async fn backlog_of(server: &Redis, service_key: &str) -> Backlog {
    let settings = ConnectionSettings::new("127.0.0.1", server.port());
    Backlog::open(&settings, service_key).await.unwrap()
}

async fn add(client: &mut RedisClient, id: &[u8], json: Option<&[u8]>) {
    let set = format!("store:idl:{SERVICE_KEY}");
    if let Some(json) = json {
        client.ask(&[b"SET", id, json]).await.unwrap();
    }
    client.ask(&[b"SADD", set.as_bytes(), id]).await.unwrap();
    let owner = [b"store:ask:", id].concat();
    client
        .ask(&[b"HSET", &owner, b"ASK", SERVICE_KEY.as_bytes()])
        .await
        .unwrap();
}

/// Everything, page by page.
async fn pages(backlog: &mut Backlog) -> Vec<Vec<LeftBehind>> {
    let mut pages = Vec::new();
    loop {
        let page = backlog.next_page().await.unwrap();
        if page.is_empty() {
            return pages;
        }
        pages.push(page);
    }
}

/// Everything by its id; each came once.
fn by_id(pages: Vec<Vec<LeftBehind>>) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for left in pages.into_iter().flatten() {
        let json = left.json.map(|json| json.to_vec());
        assert!(
            found.insert(left.id.to_vec(), json).is_none(),
            "{:?} came twice",
            left.id
        );
    }
    found
}

#[tokio::test]
async fn what_was_recorded_comes_as_it_lay_there() {
    let server = Redis::start().await.unwrap();
    let mut client = server.client().await.unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../store/testdata/v3");
    // Given what EdgeX 3 left in six cases, by service key.
    let mut wanted: BTreeMap<String, BTreeMap<Vec<u8>, Option<Vec<u8>>>> = BTreeMap::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let recorded = std::fs::read(file.unwrap().path()).unwrap();
        let keys: Vec<Value> = serde_json::from_slice(&recorded).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let mut of_file = BTreeMap::new();
        let mut service_key = String::new();
        for key in &keys {
            let name = text(&key["key"]);
            let words: Vec<String> = match key["type"].as_str().unwrap() {
                "string" => {
                    let json = text(&key["value"]);
                    of_file.insert(name.clone().into_bytes(), Some(json.clone().into_bytes()));
                    vec!["SET".into(), name, json]
                }
                kind => {
                    let command = if kind == "set" { "SADD" } else { "HSET" };
                    if let Some(key) = name.strip_prefix("store:idl:") {
                        service_key = key.to_owned();
                    }
                    let members = key["value"].as_array().unwrap().iter().map(text);
                    [command.to_owned(), name].into_iter().chain(members).collect()
                }
            };
            let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            client.ask(&words).await.unwrap();
        }
        assert!(!of_file.is_empty());
        wanted.entry(service_key).or_default().extend(of_file);
    }
    for (service_key, wanted) in wanted {
        // When it is read, then it comes byte by byte,
        let mut backlog = backlog_of(&server, &service_key).await;
        assert_eq!(
            backlog.count().await.unwrap(),
            u64::try_from(wanted.len()).unwrap()
        );
        let found = pages(&mut backlog).await;
        let ids: Vec<_> = found.iter().flatten().map(|left| left.id.clone()).collect();
        assert_eq!(by_id(found), wanted, "{service_key}");
        // and when it is removed, nothing of it is left.
        backlog.remove(&ids).await.unwrap();
        assert_eq!(backlog.count().await.unwrap(), 0);
    }
    assert_eq!(client.ask(&[b"DBSIZE"]).await.unwrap(), RedisAnswer::Integer(0));
}

#[tokio::test]
async fn many_come_in_pages_each_of_them_once() {
    let server = Redis::start().await.unwrap();
    let mut client = server.client().await.unwrap();
    let mut wanted = BTreeMap::new();
    for number in 0..1_500_u32 {
        let (id, json) = (
            format!("id-{number}").into_bytes(),
            number.to_string().into_bytes(),
        );
        add(&mut client, &id, Some(&json)).await;
        wanted.insert(id, Some(json));
    }
    let mut backlog = backlog(&server).await;
    assert_eq!(backlog.count().await.unwrap(), 1_500);
    let pages = pages(&mut backlog).await;
    assert!(pages.iter().all(|page| page.len() <= 256));
    assert_eq!(by_id(pages), wanted);
}

#[tokio::test]
async fn a_page_ends_at_its_bytes_and_what_is_larger_than_a_message_is_not_read() {
    const MIB: usize = 1 << 20;
    let server = Redis::start().await.unwrap();
    let mut client = server.client().await.unwrap();
    for number in 0..30_u8 {
        add(&mut client, &[number], Some(&vec![number; MIB])).await;
    }
    add(&mut client, b"huge", Some(&vec![0; 20 * MIB])).await;
    let settings = ConnectionSettings {
        max_message_bytes: 10 * MIB,
        ..ConnectionSettings::new("127.0.0.1", server.port())
    };
    let mut backlog = Backlog::open(&settings, SERVICE_KEY).await.unwrap();
    let pages = pages(&mut backlog).await;
    for page in &pages {
        let bytes: usize = page
            .iter()
            .flat_map(|left| &left.json)
            .map(|json| json.len())
            .sum();
        assert!(bytes <= 9 * MIB, "a page of {bytes} bytes");
    }
    let found = by_id(pages);
    assert_eq!(found.len(), 31);
    for (id, json) in found {
        let wanted = (id != b"huge").then(|| vec![id[0]; MIB]);
        assert!(json == wanted, "{id:?} came otherwise");
    }
}

#[tokio::test]
async fn what_has_no_value_or_none_that_is_one_comes_with_nothing() {
    let server = Redis::start().await.unwrap();
    let mut client = server.client().await.unwrap();
    add(&mut client, b"whole", Some(b"{}")).await;
    add(&mut client, b"empty", Some(b"")).await;
    add(&mut client, b"missing", None).await;
    add(&mut client, b"a list", None).await;
    client.ask(&[b"RPUSH", b"a list", b"{}"]).await.unwrap();
    add(&mut client, b"\xff\x00\r\n", Some(b"\xff\x00\r\n")).await;
    add(&mut client, b"", Some(b"no name")).await;
    let mut backlog = backlog(&server).await;
    let some = |json: &[u8]| Some(json.to_vec());
    let wanted = [
        (some(b"whole"), some(b"{}")),
        (some(b"empty"), some(b"")),
        (some(b"missing"), None),
        (some(b"a list"), None),
        (some(b"\xff\x00\r\n"), some(b"\xff\x00\r\n")),
        (some(b""), some(b"no name")),
    ];
    let wanted = wanted.into_iter().map(|(id, json)| (id.unwrap(), json)).collect();
    assert_eq!(by_id(pages(&mut backlog).await), wanted);
}

#[tokio::test]
async fn what_is_removed_goes_whole_and_alone() {
    let server = Redis::start().await.unwrap();
    let mut client = server.client().await.unwrap();
    for id in [b"one", b"two"] {
        add(&mut client, id, Some(b"{}")).await;
    }
    let mut backlog = backlog(&server).await;
    backlog.remove(&[]).await.unwrap();
    let ids = ["one", "not there"].map(|id| id.as_bytes().to_vec().into());
    backlog.remove(&ids).await.unwrap();
    backlog.remove(&ids).await.unwrap();
    assert_eq!(backlog.count().await.unwrap(), 1);
    let found = by_id(pages(&mut backlog).await);
    assert_eq!(found, [(b"two".to_vec(), Some(b"{}".to_vec()))].into());
    // The set, the value and the owner of the other one.
    assert_eq!(client.ask(&[b"DBSIZE"]).await.unwrap(), RedisAnswer::Integer(3));
}

#[tokio::test]
async fn a_page_that_goes_away_before_it_is_read_is_not_the_last_one() {
    let server = Redis::start().await.unwrap();
    let mut client = server.client().await.unwrap();
    // Given some twenty scans, some of which answer a little more than a page, so that a small one is left of them.
    for number in 0..5_000_u32 {
        add(&mut client, format!("id-{number}").as_bytes(), Some(b"{}")).await;
    }
    let mut other = backlog(&server).await;
    let known = pages(&mut other).await;
    let small = known.iter().position(|page| page.len() < 256).unwrap();
    assert!(
        0 < small && small + 1 < known.len(),
        "it is neither the first nor the last one"
    );
    let mut reading = backlog(&server).await;
    for page in &known[..small] {
        assert_eq!(reading.next_page().await.unwrap(), *page);
    }
    // When that is removed before it is read, as EdgeX does when it has delivered,
    let delivered: Vec<_> = known[small].iter().map(|left| left.id.clone()).collect();
    other.remove(&delivered).await.unwrap();
    // then all the others come.
    let rest: usize = pages(&mut reading).await.iter().map(Vec::len).sum();
    assert_eq!(rest, known[small + 1..].iter().map(Vec::len).sum::<usize>());
}

#[tokio::test]
async fn nothing_of_this_service_is_nothing() {
    let server = Redis::start().await.unwrap();
    let mut client = server.client().await.unwrap();
    add(&mut client, b"one", Some(b"{}")).await;
    let mut other = backlog_of(&server, "app-left:too").await;
    assert_eq!(other.count().await.unwrap(), 0);
    assert_eq!(other.next_page().await.unwrap(), []);
    assert_eq!(other.next_page().await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_refuses_is_no_empty_one() {
    let server = Redis::builder().password("s3cret").start().await.unwrap();
    let mut client = server.client().await.unwrap();
    let settings = |password: Option<&str>| {
        let mut settings = ConnectionSettings::new("127.0.0.1", server.port());
        if let Some(password) = password {
            let credentials = Credentials {
                username: String::new(),
                password: SecretText::new(password),
            };
            settings.access = Arc::new(Fixed::new(Access {
                tls: None,
                credentials: Some(credentials),
            }));
        }
        settings
    };
    let wrong = Backlog::open(&settings(Some("wrong")), SERVICE_KEY).await.err();
    assert!(matches!(wrong, Some(ConnectionError::Refused(_))), "{wrong:?}");
    let without = match Backlog::open(&settings(None), SERVICE_KEY).await {
        Ok(mut backlog) => backlog.count().await.err(),
        Err(error) => Some(error),
    };
    assert!(
        matches!(without, Some(ConnectionError::Refused(_))),
        "{without:?}"
    );
    // And a key of another type stands where the ids should.
    let set = format!("store:idl:{SERVICE_KEY}");
    client.ask(&[b"SET", set.as_bytes(), b"text"]).await.unwrap();
    let mut backlog = Backlog::open(&settings(Some("s3cret")), SERVICE_KEY)
        .await
        .unwrap();
    for refused in [backlog.count().await.err(), backlog.next_page().await.err()] {
        let refused = refused.expect("it is no set").to_string();
        assert!(refused.contains("WRONGTYPE"), "{refused}");
    }
}
