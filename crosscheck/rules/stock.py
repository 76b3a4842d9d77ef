"""What one would take from Optax at first sight: the alias of the same name, with the arguments that it has."""

import optax

from crosscheck.rules.rule import Flags, Options, flag, number


def stock(rule: str, flags: Flags, options: Options) -> optax.GradientTransformation:
    """The stock counterpart of a torch optimizer. Where it does not agree is what the atlas shows.

    Ascent is written as a negative learning rate, coupled decay as `add_decayed_weights` in front; dampening
    and torch's order in AMSGrad have no argument.
    """
    lr, decay = number(options, "lr"), number(options, "weight_decay")
    lr = -lr if flag(options, "maximize") else lr
    before = [optax.add_decayed_weights(decay)] if flags.decay == "coupled" else []
    if rule == "sgd":
        momentum = number(options, "momentum") or None
        return optax.chain(*before, optax.sgd(lr, momentum, nesterov=flags.variant == "nesterov"))
    b1, b2 = options["betas"]
    eps = number(options, "eps")
    if flags.variant == "plain":
        if flags.decay == "decoupled":
            return optax.adamw(lr, b1, b2, eps, weight_decay=decay)
        return optax.chain(*before, optax.adam(lr, b1, b2, eps))
    if flags.decay == "decoupled":  # there is no alias; this is adamw's definition with amsgrad inside
        return optax.chain(
            optax.scale_by_amsgrad(b1, b2, eps), optax.add_decayed_weights(decay), optax.scale_by_learning_rate(lr)
        )
    return optax.chain(*before, optax.amsgrad(lr, b1, b2, eps))
