//! Instance profiles on live instances.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    IamInstanceProfileAssociation, IamInstanceProfileAssociationState, IamInstanceProfileSpecification,
};

use super::error::ask;
use super::request;
use crate::cloud::Answer;

/// Gives a live instance this profile: a first one, or another one in the place of what it has. A stopped instance takes a first one
/// only; EC2 refuses to exchange it before the instance runs.
pub(super) async fn set(ec2: &Client, instance_id: &str, profile: &str) -> Answer<()> {
    let wanted = IamInstanceProfileSpecification::builder().name(profile).build();
    let Some(there) = association(ec2, instance_id).await? else {
        let call = ec2
            .associate_iam_instance_profile()
            .instance_id(instance_id)
            .iam_instance_profile(wanted);
        return ask("AssociateIamInstanceProfile", || call.send()).await.map(drop);
    };
    if names(&there, profile) {
        // The list of instances is behind; it is there.
        return Ok(());
    }
    let call = ec2
        .replace_iam_instance_profile_association()
        .set_association_id(there.association_id)
        .iam_instance_profile(wanted);
    ask("ReplaceIamInstanceProfileAssociation", || call.send())
        .await
        .map(drop)
}

/// The association that stands, or will.
async fn association(ec2: &Client, instance_id: &str) -> Answer<Option<IamInstanceProfileAssociation>> {
    let call = ec2
        .describe_iam_instance_profile_associations()
        .filters(request::filter("instance-id", [instance_id.to_owned()]));
    let answer = ask("DescribeIamInstanceProfileAssociations", || call.send()).await?;
    let stands = |association: &IamInstanceProfileAssociation| {
        matches!(
            association.state(),
            Some(IamInstanceProfileAssociationState::Associated | IamInstanceProfileAssociationState::Associating)
        )
    };
    Ok(answer
        .iam_instance_profile_associations
        .unwrap_or_default()
        .into_iter()
        .find(stands))
}

fn names(association: &IamInstanceProfileAssociation, profile: &str) -> bool {
    association
        .iam_instance_profile()
        .and_then(|profile| profile.arn())
        .and_then(|arn| arn.rsplit('/').next())
        == Some(profile)
}
