"""The losses of the base model's training, and the optimizers that follow them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isrdpo.models.hound import HoundForConditionalGeneration
from isrdpo.toybox.patches import NO_LABEL as NO_PATCH_LABEL
from isrdpo.toybox.patches import SLOTS
from isrdpo.toybox.recipe import TASKS, Recipe
from isrdpo.toybox.training_batches import NO_LABEL, TextBatch, TowerBatch

Figures = dict[str, tuple[float, float]]  # of each task or slot: its loss, and the share that is right


class Learner(nn.Module):
    """The model, and the classifiers of what a patch shows, which only the tower's own phase uses."""

    def __init__(self, model: HoundForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        classes = sum(len(values) for values in SLOTS.values())
        self.patches = nn.Linear(model.config.text_config.hidden_size, classes)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device


def step_loss(
    learner: Learner, batch: TowerBatch | TextBatch, pixels: Tensor | None, labels: Tensor | None
) -> tuple[Tensor, Figures]:
    """Return a step's loss and figures; the tower learns in its own phase only.

    `pixels` [clips, T, 3, S, S] and `labels` [clips, N, slots] are those of all clips (None where no step
    needs them).
    """
    tower_alone = isinstance(batch, TowerBatch)
    learner.model.model.video_tower.requires_grad_(tower_alone)
    clips = None if batch.clips is None else pixels[batch.clips].to(learner.device).float()
    if tower_alone:
        return patch_loss(learner, clips, labels[batch.clips])
    return reply_loss(learner, batch, clips)


def patch_loss(learner: Learner, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Figures]:
    """Return the tower's loss: the sum over slots of the cross-entropy over patches that show the slot.

    `pixels` [B, T, 3, S, S], `labels` [B, N, slots].
    """
    features = learner.model.model.get_video_features(pixels).pooler_output
    logits = learner.patches(features).split([len(values) for values in SLOTS.values()], -1)
    targets = labels.long().to(learner.device).unbind(-1)
    figures: Figures = {}
    losses = []
    for slot, slot_logits, target in zip(SLOTS, logits, targets, strict=True):
        labeled = target != NO_PATCH_LABEL
        loss = F.cross_entropy(slot_logits[labeled], target[labeled])
        right = (slot_logits.detach().argmax(-1) == target)[labeled]
        figures[slot] = (loss.item(), right.float().mean().item())
        losses.append(loss)
    return torch.stack(losses).sum(), figures


def reply_loss(learner: Learner, batch: TextBatch, pixels: Tensor | None) -> tuple[Tensor, Figures]:
    """Return the language model's loss: the mean over the step's tasks of their weighted cross-entropy.

    So one verdict token counts as much as a long description. `pixels` [B, T, 3, S, S] are None where the
    step is text only.
    """
    model = learner.model
    device = learner.device
    vision = {} if pixels is None else {"pixel_values_videos": pixels}
    hidden = model.model(
        input_ids=batch.packed.input_ids.to(device),
        attention_mask=batch.packed.attention_mask.to(device),
        position_ids=batch.packed.position_ids.to(device),
        use_cache=False,
        **vision,
    ).last_hidden_state
    target = batch.labels[:, 1:].to(device)
    labeled = target != NO_LABEL
    target = target[labeled]
    weights = batch.weights[:, 1:].to(device)[labeled]
    task = batch.task[:, 1:].to(device)[labeled]
    logits = model.lm_head(hidden[:, :-1][labeled])
    token_losses = F.cross_entropy(logits, target, reduction="none")
    right = (logits.detach().argmax(-1) == target).float()
    figures: Figures = {}
    losses = []
    for number in task.unique().tolist():
        share = weights * (task == number)
        share = share / share.sum()
        loss = (token_losses * share).sum()
        figures[TASKS[number]] = (loss.item(), (right * share).sum().item())
        losses.append(loss)
    return torch.stack(losses).mean(), figures


def make_optimizers(learner: Learner, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices, and AdamW for embeddings, head, patch filters, norms and biases."""
    matrices = []
    others = []
    for name, parameter in learner.named_parameters():
        apart = any(part in name for part in ("embed", "lm_head", "patches"))
        group = matrices if parameter.ndim == 2 and not apart else others
        group.append(parameter)
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_rate, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]
