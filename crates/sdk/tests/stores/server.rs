//! How a server that is given by its address is spoken to: over TLS, and as whom.

use std::error::Error as _;

use edgehold_test_support::{Authority, Certificate};

use super::*;

/// A server with a certificate of `ours` for 127.0.0.1, which knows clients of the same authority, and files with what a client
/// may need.
struct Server {
    postgres: Postgres,
    bench: Bench,
}

impl Server {
    async fn start() -> Self {
        let (ours, others) = (Authority::new().unwrap(), Authority::new().unwrap());
        let postgres = Postgres::builder()
            .certificate(&ours.issue("127.0.0.1").unwrap())
            .clients(&ours)
            .start()
            .await
            .unwrap();
        let bench = Bench::new();
        let Certificate { pem, key } = ours.issue("a-client").unwrap();
        for (name, text) in [
            ("ours", ours.pem()),
            ("others", others.pem()),
            ("cert", &pem),
            ("key", &key),
        ] {
            std::fs::write(bench.folder.path().join(name), text).unwrap();
        }
        bench.file("from.db").fill(&[full(1, ObjectState::Failed)]).await;
        Self { postgres, bench }
    }

    /// The address with these parameters, `FOLDER` standing for where the files are.
    fn address(&self, login: &str, host: &str, parameters: &str) -> String {
        let folder = self.bench.folder.path().display().to_string();
        let port = self.postgres.port();
        let parameters = parameters.replace("FOLDER", &folder);
        format!("postgres://{login}@{host}:{port}/edgex_db?{parameters}")
    }

    /// Copies to this address; answers whether that was encrypted, and as whom the client came.
    async fn copy_to(&self, address: &str) -> Result<String, CopyError> {
        let from = self.bench.file("from.db").address();
        let mut spoken = String::new();
        let copied = self.bench.copy_at(&from, address, |_| {
            let sql = "SELECT bool_and(ssl), coalesce(max(client_dn), '') FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                       WHERE application_name LIKE 'edgehold%'";
            spoken = self.postgres.psql("edgex_db", sql).unwrap();
        });
        assert!(copied.await?.agrees());
        Ok(spoken)
    }
}

/// An error with its causes.
fn told(error: &CopyError) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        told.push_str(&format!(": {error}"));
        source = error.source();
    }
    told
}

const ENCODED: &str = "postgres:s3cret%20'and'%20%22quoted%22";

#[tokio::test]
async fn a_server_is_spoken_to_as_the_parameters_of_its_address_say() {
    let server = Server::start().await;
    for (parameters, spoken) in [
        ("sslmode=disable", "f|"),
        ("", "t|"),
        ("sslmode=prefer", "t|"),
        ("sslmode=require", "t|"),
        ("sslmode=require&sslrootcert=FOLDER/ours", "t|"),
        ("sslmode=verify-ca&sslrootcert=FOLDER/ours", "t|"),
        ("sslrootcert=FOLDER/ours", "t|"),
        (
            "sslmode=verify-full&sslrootcert=FOLDER/ours&sslcert=FOLDER/cert&sslkey=FOLDER/key",
            "t|/CN=a-client",
        ),
    ] {
        let address = server.address(ENCODED, "127.0.0.1", parameters);
        assert_eq!(server.copy_to(&address).await.unwrap(), spoken, "{parameters}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_believed_gets_nothing_and_no_error_shows_the_password() {
    let server = Server::start().await;
    let wrong = "postgres:s3cret-wrong";
    for (login, host, parameters, problem) in [
        (ENCODED, "127.0.0.1", "sslrootcert=FOLDER/others", "TLS"),
        (ENCODED, "127.0.0.1", "sslmode=verify-full", "TLS"),
        (
            ENCODED,
            "127.0.0.1",
            "sslmode=verify-ca&sslrootcert=FOLDER/others",
            "TLS",
        ),
        // As libpq has it: who names an authority means it.
        (
            ENCODED,
            "127.0.0.1",
            "sslmode=require&sslrootcert=FOLDER/others",
            "TLS",
        ),
        // The certificate is for another host.
        (ENCODED, "localhost", "sslrootcert=FOLDER/ours", "TLS"),
        (
            ENCODED,
            "127.0.0.1",
            "sslrootcert=FOLDER/nowhere",
            "nowhere cannot be read",
        ),
        (
            ENCODED,
            "127.0.0.1",
            "sslcert=FOLDER/cert&sslkey=FOLDER/missing",
            "sslkey: ",
        ),
        (wrong, "127.0.0.1", "", "refuses these credentials"),
    ] {
        let address = server.address(login, host, parameters);
        let error = told(&server.copy_to(&address).await.unwrap_err());
        assert!(
            error.contains(problem) && !error.contains("s3cret"),
            "{parameters}: {error}"
        );
    }
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'app-copied'";
    assert_eq!(server.postgres.psql("edgex_db", schemas).unwrap(), "0");
}

#[tokio::test]
async fn a_password_need_not_be_in_the_address() {
    let server = Server::start().await;
    let port = server.postgres.port();
    let address = |login: &str| format!("postgres://{login}127.0.0.1:{port}/edgex_db");
    let copy = async |bench: &Bench, login: &str| {
        let from = server.bench.file("from.db").address();
        bench.copy_at(&from, &address(login), |_| {}).await
    };
    // It is in the environment,
    let bench = Bench::new().env("PGPASSWORD", Postgres::PASSWORD);
    assert!(copy(&bench, "postgres@").await.unwrap().agrees());
    // but not for whoever says another one,
    let other = copy(&bench, "postgres:wrong@").await.unwrap_err();
    assert!(told(&other).contains("refuses these credentials"), "{other:?}");
    // or in the secret of the store, with the user or for it,
    let bench = Bench::on_server(&server.postgres, "edgex_db");
    assert!(copy(&bench, "").await.unwrap().agrees());
    assert!(copy(&bench, "postgres@").await.unwrap().agrees());
    // and not for anybody else.
    let other = copy(&bench, "somebody@").await.unwrap_err();
    assert!(told(&other).contains("refuses these credentials"), "{other:?}");
    let nobody = copy(&Bench::new(), "").await.unwrap_err();
    assert!(told(&nobody).contains("names no user"), "{nobody:?}");
}
