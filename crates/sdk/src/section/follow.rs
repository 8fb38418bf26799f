//! Sections outside `Writable` that somebody follows.
//!
//! A provider tells of changes below `Writable` alone, so these are read again every two seconds, all of them at once: by
//! services that follow such a section, and no others.

use std::{sync::Arc, time::Duration};

use edgehold_config::{ConfigurationProvider, Layers};
use edgehold_core::ShutdownSignal;
use tokio::time::sleep;

use crate::setup::LiveSection;

const PERIOD: Duration = Duration::from_secs(2);

/// Reads them again until told to end. A section that has vanished wholly keeps what it had: lost rights look like that.
pub(crate) async fn follow(
    provider: Arc<dyn ConfigurationProvider>,
    mut layers: Layers,
    sections: Vec<LiveSection>,
    mut shutdown: ShutdownSignal,
) {
    if sections.is_empty() {
        return shutdown.recv().await;
    }
    loop {
        // Cancel-safe, both.
        let snapshot = tokio::select! {
            snapshot = async { sleep(PERIOD).await; provider.load().await } => snapshot,
            () = shutdown.recv() => return,
        };
        match snapshot {
            Ok(snapshot) => layers.load(snapshot),
            // Told of by whoever watches the settings below Writable.
            Err(error) => {
                tracing::debug!("sections outside Writable stay as they are: {error}");
                continue;
            }
        }
        for LiveSection { name, sender } in &sections {
            let now = layers.section(name);
            let changed = sender.send_if_modified(|current| {
                let changed = *current != now && !now.is_empty();
                if changed {
                    *current = now;
                }
                changed
            });
            if changed {
                tracing::info!("{name} has been updated from the Configuration Provider");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use edgehold_config::{Section, memory::MemoryProvider};
    use edgehold_core::Shutdown;
    use tokio::{join, sync::watch, time::timeout};

    use super::*;
    use crate::SectionWatch;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Custom {
        limit: u32,
    }

    #[tokio::test(start_paused = true)]
    async fn a_section_outside_writable_follows_its_provider_through_an_outage() {
        // Given a section that is followed
        let provider = Arc::new(MemoryProvider::default());
        provider.set(Section::Private, "AppCustom/Limit", "1");
        let mut layers = Layers::default();
        layers.load(provider.load().await.unwrap());
        let (sender, receiver) = watch::channel(layers.section("AppCustom"));
        let mut custom = SectionWatch::<Custom>::new("AppCustom", receiver);
        let section = LiveSection {
            name: "AppCustom".to_owned(),
            sender,
        };
        let (shutdown, signal) = Shutdown::new();
        let following = follow(provider.clone(), layers, vec![section], signal);
        let looking = async {
            // When it changes, also while the provider is away, then that is told
            assert_eq!(custom.current().unwrap(), Custom { limit: 1 });
            provider.set(Section::Private, "AppCustom/Limit", "2");
            assert_eq!(custom.changed().await.unwrap(), Custom { limit: 2 });
            provider.set_available(false);
            provider.set(Section::Private, "AppCustom/Limit", "3");
            let waited = timeout(PERIOD * 5, custom.changed()).await;
            assert!(waited.is_err(), "{waited:?}");
            provider.set_available(true);
            assert_eq!(custom.changed().await.unwrap(), Custom { limit: 3 });

            // When it is no such thing any more, that is told by name; when it vanishes it stays as it was
            provider.set(Section::Private, "AppCustom/Limit", "many");
            let error = custom.changed().await.unwrap_err().to_string();
            assert!(error.contains("AppCustom/Limit"), "{error}");
            provider.set(Section::Private, "AppCustom/Limit", "4");
            assert_eq!(custom.changed().await.unwrap(), Custom { limit: 4 });
            provider.delete(Section::Private, "AppCustom/Limit");
            assert!(timeout(PERIOD * 5, custom.changed()).await.is_err());
            assert_eq!(custom.current().unwrap(), Custom { limit: 4 });
            shutdown.trigger();
        };
        join!(following, looking);
    }
}
