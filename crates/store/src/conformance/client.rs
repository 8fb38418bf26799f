//! What a custom store must do.

use edgehold_core::StoredObjectId;

use super::*;
use crate::StoreError;

async fn store(client: &dyn StoreClient, objects: &[StoredObject]) -> Outcome {
    let answers = client.store(objects).await;
    ensure_eq!(answers.len(), objects.len(), "one answer for each stored object");
    for (answer, object) in answers.into_iter().zip(objects) {
        let id = answer.map_err(|error| error.to_string())?;
        ensure_eq!(id, object.id, "the answer is the object's id");
    }
    Ok(())
}

/// Everything, in pages of this size.
async fn retrieve(client: &dyn StoreClient, limit: usize) -> Result<Vec<StoredObject>, String> {
    let mut all: Vec<StoredObject> = Vec::new();
    loop {
        let after = all.last().map(|object| object.id);
        let page = client
            .retrieve_from_store(&service_key(), after, limit)
            .await
            .map_err(|error| error.to_string())?;
        ensure!(
            page.len() <= limit,
            "a page of {} is over the limit of {limit}",
            page.len()
        );
        let ended = page.len() < limit;
        all.extend(page);
        if ended {
            return Ok(all);
        }
    }
}

fn by_id(mut objects: Vec<StoredObject>) -> Vec<StoredObject> {
    objects.sort_by_key(|object| object.id);
    objects
}

pub(super) async fn a_client_gives_every_field_back(client: &dyn StoreClient) -> Outcome {
    let numbered = (7_i64..).zip(append::unusual_objects());
    let mut objects: Vec<_> = numbered
        .map(|(seq, object)| StoredObject {
            seq,
            crashes: 1,
            ..object
        })
        .collect();
    objects.push(StoredObject {
        payload: bytes::Bytes::new(),
        ..object(500)
    });
    store(client, &objects).await?;
    ensure_eq!(
        retrieve(client, 100).await?,
        by_id(objects),
        "every field comes back"
    );
    Ok(())
}

pub(super) async fn a_client_answers_in_order_of_id_page_by_page(client: &dyn StoreClient) -> Outcome {
    store(client, &objects(1..=10)).await?;
    let wanted = by_id(objects(1..=10));
    for limit in [1, 3, 10, 11] {
        ensure!(
            retrieve(client, limit).await? == wanted,
            "pages of {limit} are in order, without a gap"
        );
    }
    // A cursor whose object has left still says where to go on.
    client
        .remove_from_store(&ids(&wanted[..5]))
        .await
        .map_err(|error| error.to_string())?;
    let after = Some(wanted[4].id);
    let rest = client
        .retrieve_from_store(&service_key(), after, 10)
        .await
        .map_err(|error| error.to_string())?;
    ensure_eq!(ids(&rest), ids(&wanted[5..]), "a removed cursor");
    Ok(())
}

pub(super) async fn a_client_refuses_an_id_it_has(client: &dyn StoreClient) -> Outcome {
    store(client, &objects([1])).await?;
    let other = StoredObject {
        payload: "other".into(),
        ..object(1)
    };
    let answers = client.store(&[object(2), other, object(3)]).await;
    ensure!(
        matches!(&answers[..], [Ok(_), Err(StoreError::Exists(exists)), Ok(_)] if *exists == id(1)),
        "only the id that is there is refused: {answers:?}"
    );
    ensure_eq!(
        retrieve(client, 10).await?,
        by_id(objects(1..=3)),
        "the first one is untouched"
    );
    Ok(())
}

pub(super) async fn a_client_updates_only_what_is_there(client: &dyn StoreClient) -> Outcome {
    store(client, &objects([1, 2])).await?;
    let changed = StoredObject {
        attempts: 7,
        state: ObjectState::Error,
        payload: "new".into(),
        ..object(2)
    };
    let gone = object(3);
    client
        .update(&[changed.clone(), gone])
        .await
        .map_err(|error| error.to_string())?;
    ensure_eq!(
        retrieve(client, 10).await?,
        by_id(vec![object(1), changed]),
        "one is replaced, none is made up"
    );
    Ok(())
}

pub(super) async fn a_client_removes_and_forgets(client: &dyn StoreClient) -> Outcome {
    store(client, &objects(1..=3)).await?;
    let remove: Vec<StoredObjectId> = vec![id(2), id(9)];
    for _ in 0..2 {
        client
            .remove_from_store(&remove)
            .await
            .map_err(|error| error.to_string())?;
    }
    ensure_eq!(
        retrieve(client, 10).await?,
        by_id(objects([1, 3])),
        "the removed one is gone"
    );
    store(client, &objects([2])).await?;
    ensure_eq!(retrieve(client, 10).await?.len(), 3, "and may be stored again");
    Ok(())
}

pub(super) async fn a_client_keeps_services_apart(client: &dyn StoreClient) -> Outcome {
    let service_key = ServiceKey::try_new("app-other").expect("it is a valid service key");
    let foreign = StoredObject {
        service_key: service_key.clone(),
        ..object(1)
    };
    store(client, &[foreign.clone(), object(2)]).await?;
    ensure_eq!(retrieve(client, 10).await?, objects([2]), "this service");
    let others = client
        .retrieve_from_store(&service_key, None, 10)
        .await
        .map_err(|error| error.to_string())?;
    ensure_eq!(others, [foreign], "the other one");
    Ok(())
}
