use std::{os::unix::fs::symlink, path::Path};

use edgehold_core::Shutdown;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use super::*;

const GOOD: &str = "Writable:\n  LogLevel: INFO\n  Old: x\nService:\n  Port: 1\n";

/// A provider of one file, followed, in a time of its own: every wait is a wait for a state.
struct Followed {
    path: PathBuf,
    snapshots: watch::Receiver<Option<Snapshot>>,
    _shutdown: Shutdown,
    watching: BoxFuture<'static, ()>,
    _folder: TempDir,
}

impl Followed {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("configuration.yaml");
        fs::write(&path, GOOD).unwrap();
        Self::of(folder, path).await
    }

    async fn of(folder: TempDir, path: PathBuf) -> Self {
        let provider = FileProvider::new(
            FileSource::File(path.clone()),
            FileSource::Fixed(CommonConfig::default()),
        );
        let (shutdown, signal) = Shutdown::new();
        let (sender, snapshots) = watch::channel(None);
        let mut followed = Self {
            path,
            snapshots,
            _shutdown: shutdown,
            watching: Arc::new(provider).watch(sender, signal),
            _folder: folder,
        };
        followed.pass(Duration::ZERO).await;
        followed
    }

    /// Lets this time pass for the watch.
    async fn pass(&mut self, time: Duration) {
        let _ = timeout(time, &mut self.watching).await;
    }

    /// The log level that was told last.
    fn level(&self) -> Option<String> {
        let snapshot = self.snapshots.borrow();
        let private = snapshot.as_ref()?.private.as_ref()?;
        private.get("Writable/LogLevel").map(str::to_owned)
    }

    /// As soon as this level has been told: after how long.
    async fn level_after(&mut self, level: &str) -> Duration {
        let start = Instant::now();
        while self.level().as_deref() != Some(level) {
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", self.level());
            self.pass(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }
}

fn text(level: &str) -> String {
    GOOD.replace("INFO", level)
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_written_in_place_or_renamed_into_place_takes_effect_within_two_seconds() {
    let mut file = Followed::start().await;
    assert_eq!(file.level().as_deref(), Some("INFO"));

    fs::write(&file.path, text("DEBUG")).unwrap();
    let took = file.level_after("DEBUG").await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    replace(&file.path.clone(), &text("WARN"));
    let took = file.level_after("WARN").await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// The time and the size of a file do not say whether it has changed.
#[tokio::test(start_paused = true)]
async fn a_change_that_keeps_size_and_time_is_seen() {
    let mut file = Followed::start().await;
    let time = fs::metadata(&file.path).unwrap().modified().unwrap();

    fs::write(&file.path, text("WARN")).unwrap();
    let handle = fs::File::options().write(true).open(&file.path).unwrap();
    handle.set_modified(time).unwrap();

    assert_eq!(text("WARN").len(), GOOD.len());
    file.level_after("WARN").await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_swapped_by_its_link_is_followed() {
    // As Kubernetes mounts a ConfigMap: file ─► ..data/file, ..data ─► ..2026_11_28/
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str, level: &str| {
        let version = folder.path().join(name);
        fs::create_dir(&version).unwrap();
        fs::write(version.join("configuration.yaml"), text(level)).unwrap();
        let link = folder.path().join("..data_tmp");
        symlink(name, &link).unwrap();
        fs::rename(link, folder.path().join("..data")).unwrap();
    };
    version("..1", "INFO");
    let path = folder.path().join("configuration.yaml");
    symlink("..data/configuration.yaml", &path).unwrap();
    let root = folder.path().to_owned();
    version("..2", "DEBUG");
    fs::remove_dir_all(root.join("..1")).unwrap();
    let mut file = Followed::of(tempfile::tempdir().unwrap(), path).await;
    assert_eq!(file.level().as_deref(), Some("DEBUG"));

    version("..3", "WARN");
    fs::remove_dir_all(root.join("..2")).unwrap();
    file.level_after("WARN").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_still_being_written_is_waited_for() {
    let mut file = Followed::start().await;
    file.snapshots.mark_unchanged();
    let whole = text("DEBUG") + "ApplicationSettings:\n  A: b\n";

    // A line at a time: almost every beginning of it is YAML as well.
    for end in whole.match_indices('\n').map(|(end, _)| end + 1) {
        fs::write(&file.path, &whole[..end]).unwrap();
        file.pass(Duration::from_millis(400)).await;
        let told = file.snapshots.has_changed().unwrap();
        assert!(!told || end == whole.len(), "told after {:?}", &whole[..end]);
    }
    file.level_after("DEBUG").await;
    let snapshot = file.snapshots.borrow().clone().unwrap();
    assert_eq!(snapshot.private.unwrap().get("Writable/Old"), Some("x"));
}

#[tokio::test(start_paused = true)]
async fn what_is_empty_broken_or_gone_keeps_the_last_good_configuration() {
    let mut file = Followed::start().await;
    let path = file.path.clone();
    file.snapshots.mark_unchanged();
    let break_it: [(&str, &dyn Fn()); 5] = [
        ("empty", &|| fs::write(&path, "").unwrap()),
        ("of comments", &|| fs::write(&path, "# soon\n").unwrap()),
        ("no YAML", &|| fs::write(&path, "Writable: {\n").unwrap()),
        ("not UTF-8", &|| fs::write(&path, [0xff, 0xfe]).unwrap()),
        ("gone", &|| fs::remove_file(&path).unwrap()),
    ];
    for (what, break_it) in break_it {
        break_it();
        file.pass(Duration::from_secs(10)).await;
        assert!(
            !file.snapshots.has_changed().unwrap(),
            "{what}: {:?}",
            *file.snapshots.borrow()
        );
    }

    fs::create_dir(&path).unwrap();
    file.pass(Duration::from_secs(10)).await;
    assert!(!file.snapshots.has_changed().unwrap(), "a folder is no file");
    fs::remove_dir(&path).unwrap();

    fs::write(&path, GOOD).unwrap();
    file.pass(Duration::from_secs(10)).await;
    assert!(!file.snapshots.has_changed().unwrap(), "it is the same again");
    fs::write(&path, text("WARN")).unwrap();
    file.level_after("WARN").await;
}

#[test]
fn a_look_is_taken_when_the_next_one_is_the_same() {
    let look = |text: &str| -> Look { Ok([Some(text.to_owned()), None]) };
    let mut files = super::Followed::default();
    assert_eq!(files.see(look("a")), Step::Settled(look("a")), "the first one");
    assert_eq!(files.see(look("a")), Step::Unchanged);
    assert_eq!(files.see(look("b")), Step::Moving);
    assert_eq!(files.see(look("c")), Step::Moving);
    assert_eq!(files.see(look("a")), Step::Unchanged, "taken back");
    assert_eq!(
        files.see(look("c")),
        Step::Moving,
        "what was seen before that does not count"
    );
    assert_eq!(files.see(look("c")), Step::Settled(look("c")));
    let gone: Look = Err("gone".to_owned());
    assert_eq!(files.see(gone.clone()), Step::Moving);
    assert_eq!(files.see(gone.clone()), Step::Settled(gone.clone()));
    assert_eq!(files.see(gone), Step::Unchanged, "it is said once");
}

#[tokio::test]
async fn nothing_is_written_through_it() {
    let provider = FileProvider::new(
        FileSource::File("x.yaml".into()),
        FileSource::File("common.yaml".into()),
    );
    assert_eq!(provider.describe(), "files x.yaml and common.yaml");
    let refused = provider.seed(&Layer::default(), true).await.unwrap_err();
    assert!(matches!(refused, ProviderError::ReadOnly { .. }), "{refused}");
    let edit = provider
        .edit(&[vec![Edit::set("Writable/LogLevel", "INFO")]])
        .await;
    assert!(matches!(
        edit,
        Err(EditError::Provider(ProviderError::ReadOnly { .. }))
    ));
}

#[test]
fn what_needs_a_restart_is_named() {
    let snapshot = |leaves: &[(&str, &str)]| Snapshot {
        private: Some(leaves.iter().copied().collect()),
        ..Snapshot::default()
    };
    let before = snapshot(&[("Service/Port", "1"), ("A/1", ""), ("Same", "")]);
    let now = snapshot(&[
        ("Service/Port", "2"),
        ("Same", ""),
        ("B/1", ""),
        ("B/2", ""),
        ("B/3", ""),
        ("B/4", ""),
    ]);
    assert_eq!(differing(&before, &now), "A/1, B/1, B/2, B/3, B/4 and 1 more");
    assert_eq!(differing(&before, &before), "");
}
