//! Pages: an answer that says that there is more is followed by the question for the rest.

use crate::cloud::Answer;

/// What one page shows, and the token of the next.
pub(super) type Page<T> = (Vec<T>, Option<String>);

/// All pages of a list. A page may be empty and still have a successor.
pub(super) async fn all<T, F>(mut ask: impl FnMut(Option<String>) -> F) -> Answer<Vec<T>>
where
    F: Future<Output = Answer<Page<T>>>,
{
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let (shown, rest) = ask(next).await?;
        found.extend(shown);
        next = rest.filter(|token| !token.is_empty());
        if next.is_none() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CloudError;

    #[tokio::test]
    async fn an_empty_page_is_not_the_last_and_an_empty_token_is_no_token() {
        let mut asked = Vec::new();
        let answer = all(|next| {
            asked.push(next.clone());
            let page: Page<u8> = match next.as_deref() {
                None => (vec![1, 2], Some("a".to_owned())),
                Some("a") => (vec![], Some("b".to_owned())),
                _ => (vec![3], Some(String::new())),
            };
            std::future::ready(Ok(page))
        });
        assert_eq!(answer.await, Ok(vec![1, 2, 3]));
        assert_eq!(asked, [None, Some("a".to_owned()), Some("b".to_owned())]);
    }

    #[tokio::test]
    async fn a_list_without_its_end_is_no_list() {
        let broken = || CloudError::unintelligible("DescribeVolumes", "cut off");
        let answer: Answer<Vec<u8>> = all(|next| {
            std::future::ready(match next {
                None => Ok((vec![1], Some("a".to_owned()))),
                Some(_) => Err(broken()),
            })
        })
        .await;
        assert_eq!(answer, Err(broken()));
    }
}
