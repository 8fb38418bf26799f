//! What the message bus tells of Core Keeper: that something has changed, and whether it would tell at all.
//!
//! A notice carries a key and a value, of which nothing is used: it may be old, one of several, or that of a folder. It only
//! says that it is worth looking.

use edgehold_core::TopicFilter;
use tokio::sync::watch;

use crate::section::{COMMON, STEM};

/// Core Keeper's own base prefix, whatever that of the service is. (EdgeX's client has it fixed too.)
const PREFIX: &str = "edgex/configs";

/// For whoever listens on the message bus. Dropping it is as [`NoticeSender::set_listening`] with false.
#[derive(Debug)]
pub struct NoticeSender {
    told: watch::Sender<Told>,
    filters: Vec<TopicFilter>,
}

/// What the message bus has told of so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    listening: bool,
    notices: u64,
}

/// The other side.
#[derive(Clone, Debug)]
pub(crate) struct Notices(watch::Receiver<Told>);

impl NoticeSender {
    /// Both sides, for a service.
    pub(crate) fn new(service_key: &str) -> (Self, Notices) {
        let (told, notices) = watch::channel(Told::default());
        // Beyond what EdgeX listens to: a value that is written for a whole folder is told of at the folder, above
        // `Writable` too.
        let topics = [
            format!("{PREFIX}/{STEM}/{service_key}/#"),
            format!("{PREFIX}/{COMMON}/#"),
            format!("{PREFIX}/{STEM}"),
        ];
        // A key in which a wildcard stands cannot be listened to.
        let filters = topics.iter().filter_map(|topic| TopicFilter::try_new(topic).ok());
        let filters = filters.collect();
        (Self { told, filters }, Notices(notices))
    }

    /// The topics to listen to, complete: no base prefix of the service stands before them.
    pub fn filters(&self) -> &[TopicFilter] {
        &self.filters
    }

    /// Says whether notices would arrive now. When they begin to, what was missed before is made up for.
    pub fn set_listening(&self, listening: bool) {
        self.told.send_if_modified(|told| {
            let before = std::mem::replace(&mut told.listening, listening);
            before != listening
        });
    }

    /// A notice has arrived.
    pub fn tell(&self) {
        self.told
            .send_modify(|told| told.notices = told.notices.wrapping_add(1));
    }
}

impl Drop for NoticeSender {
    fn drop(&mut self) {
        self.set_listening(false);
    }
}

impl Notices {
    /// Whether notices would arrive.
    pub(crate) fn are_listened_to(&self) -> bool {
        self.0.borrow().listening
    }

    /// Forgets what has been told so far.
    pub(crate) fn forget(&mut self) {
        self.0.borrow_and_update();
    }

    /// Returns when something is told. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who could tell.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn what_is_told_of_a_key_or_a_folder_above_it_is_listened_to() {
        let (sender, _notices) = NoticeSender::new("app-x");
        let hears = |topic: &str| sender.filters().iter().any(|filter| filter.matches(topic));
        for topic in [
            "edgex/configs/edgex/v4/app-x/Writable/LogLevel",
            "edgex/configs/edgex/v4/app-x/Writable",
            "edgex/configs/edgex/v4/app-x",
            "edgex/configs/edgex/v4",
            "edgex/configs/edgex/v4/core-common-config-bootstrapper/all-services/Writable/LogLevel",
            "edgex/configs/edgex/v4/core-common-config-bootstrapper/app-services/Writable/Telemetry/Interval",
            "edgex/configs/edgex/v4/core-common-config-bootstrapper",
        ] {
            assert!(hears(topic), "{topic}");
        }
        for topic in [
            "edgex/configs/edgex/v4/app-x2/Writable/LogLevel",
            "edgex/events/device",
        ] {
            assert!(!hears(topic), "{topic}");
        }
        let (odd, _notices) = NoticeSender::new("app+x");
        assert_eq!(odd.filters().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn each_side_knows_of_the_other() {
        let (sender, mut notices) = NoticeSender::new("app-x");
        let told =
            async |notices: &mut Notices| timeout(Duration::from_secs(1), notices.next()).await.is_ok();
        assert!(!told(&mut notices).await);
        sender.tell();
        sender.tell();
        assert!(told(&mut notices).await, "one for both");
        assert!(!told(&mut notices).await);
        assert!(!notices.are_listened_to());
        sender.set_listening(true);
        assert!(told(&mut notices).await && notices.are_listened_to());
        sender.set_listening(true);
        assert!(!told(&mut notices).await, "nothing is new");
        drop(sender);
        assert!(!notices.are_listened_to());
        assert!(told(&mut notices).await, "that it has ended");
        assert!(
            !told(&mut notices).await,
            "and then nothing, instead of again and again"
        );
    }
}
