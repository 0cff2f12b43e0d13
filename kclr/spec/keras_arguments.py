"""What Keras' classes take, so that a spec is checked without Keras: written by
tools/keras_arguments, which see.

For each class its arguments, as `name=kind` with a kind of `keras_values.py`; `!` where it must be
given, `?` where it may be null.
"""

# fmt: off
VERSION = "3.15"  # of the Keras that they are from

ARGUMENTS: dict[str, dict[str, str]] = {
    "keras.optimizers": {
        "Adadelta": (
            "learning_rate=rate rho=momentum epsilon=amount weight_decay=amount? "
            "clipnorm=positive? clipvalue=positive? global_clipnorm=positive? use_ema=flag "
            "ema_momentum=share ema_overwrite_frequency=count? loss_scale_factor=positive? "
            "gradient_accumulation_steps=several? name=text?"
        ),
        "Adafactor": (
            "learning_rate=rate beta_2_decay=negative epsilon_1=amount epsilon_2=amount "
            "clip_threshold=positive relative_step=flag weight_decay=amount? clipnorm=positive? "
            "clipvalue=positive? global_clipnorm=positive? use_ema=flag ema_momentum=share "
            "ema_overwrite_frequency=count? loss_scale_factor=positive? "
            "gradient_accumulation_steps=several? name=text?"
        ),
        "Adagrad": (
            "learning_rate=rate initial_accumulator_value=amount epsilon=amount "
            "weight_decay=amount? clipnorm=positive? clipvalue=positive? global_clipnorm=positive? "
            "use_ema=flag ema_momentum=share ema_overwrite_frequency=count? "
            "loss_scale_factor=positive? gradient_accumulation_steps=several? name=text?"
        ),
        "Adam": (
            "learning_rate=rate beta_1=momentum beta_2=momentum epsilon=amount amsgrad=flag "
            "weight_decay=amount? clipnorm=positive? clipvalue=positive? global_clipnorm=positive? "
            "use_ema=flag ema_momentum=share ema_overwrite_frequency=count? "
            "loss_scale_factor=positive? gradient_accumulation_steps=several? name=text?"
        ),
        "Adamax": (
            "learning_rate=rate beta_1=momentum beta_2=momentum epsilon=amount "
            "weight_decay=amount? clipnorm=positive? clipvalue=positive? global_clipnorm=positive? "
            "use_ema=flag ema_momentum=share ema_overwrite_frequency=count? "
            "loss_scale_factor=positive? gradient_accumulation_steps=several? name=text?"
        ),
        "AdamW": (
            "learning_rate=rate weight_decay=amount beta_1=momentum beta_2=momentum epsilon=amount "
            "amsgrad=flag clipnorm=positive? clipvalue=positive? global_clipnorm=positive? "
            "use_ema=flag ema_momentum=share ema_overwrite_frequency=count? "
            "loss_scale_factor=positive? gradient_accumulation_steps=several? name=text?"
        ),
        "Ftrl": (
            "learning_rate=rate learning_rate_power=negative initial_accumulator_value=amount "
            "l1_regularization_strength=amount l2_regularization_strength=amount "
            "l2_shrinkage_regularization_strength=amount beta=amount weight_decay=amount? "
            "clipnorm=positive? clipvalue=positive? global_clipnorm=positive? use_ema=flag "
            "ema_momentum=share ema_overwrite_frequency=count? loss_scale_factor=positive? "
            "gradient_accumulation_steps=several? name=text?"
        ),
        "Lamb": (
            "learning_rate=rate beta_1=momentum beta_2=momentum epsilon=amount "
            "weight_decay=amount? clipnorm=positive? clipvalue=positive? global_clipnorm=positive? "
            "use_ema=flag ema_momentum=share ema_overwrite_frequency=count? "
            "loss_scale_factor=positive? gradient_accumulation_steps=several? name=text?"
        ),
        "Lion": (
            "learning_rate=rate beta_1=share_above_0 beta_2=momentum weight_decay=amount? "
            "clipnorm=positive? clipvalue=positive? global_clipnorm=positive? use_ema=flag "
            "ema_momentum=share ema_overwrite_frequency=count? loss_scale_factor=positive? "
            "gradient_accumulation_steps=several? name=text?"
        ),
        "Muon": (
            "learning_rate=rate adam_beta_1=momentum adam_beta_2=momentum adam_weight_decay=amount "
            "epsilon=amount weight_decay=amount clipnorm=positive? clipvalue=positive? "
            "global_clipnorm=positive? use_ema=flag ema_momentum=share "
            "ema_overwrite_frequency=count? loss_scale_factor=positive? "
            "gradient_accumulation_steps=several? name=text? exclude_layers=texts? "
            "exclude_embeddings=flag muon_a=number muon_b=number muon_c=number "
            "adam_lr_ratio=positive momentum=momentum ns_steps=few nesterov=flag rms_rate=positive"
        ),
        "Nadam": (
            "learning_rate=rate beta_1=momentum beta_2=momentum epsilon=amount "
            "weight_decay=amount? clipnorm=positive? clipvalue=positive? global_clipnorm=positive? "
            "use_ema=flag ema_momentum=share ema_overwrite_frequency=count? "
            "loss_scale_factor=positive? gradient_accumulation_steps=several? name=text?"
        ),
        "RMSprop": (
            "learning_rate=rate rho=momentum momentum=momentum epsilon=amount centered=flag "
            "weight_decay=amount? clipnorm=positive? clipvalue=positive? global_clipnorm=positive? "
            "use_ema=flag ema_momentum=share ema_overwrite_frequency=count? "
            "loss_scale_factor=positive? gradient_accumulation_steps=several? name=text?"
        ),
        "ScheduleFreeAdamW": (
            "learning_rate=rate beta_1=momentum beta_2=momentum epsilon=amount "
            "warmup_steps=steps_or_0 weight_decay=amount? clipnorm=positive? clipvalue=positive? "
            "global_clipnorm=positive? use_ema=flag ema_momentum=share "
            "ema_overwrite_frequency=count? loss_scale_factor=positive? "
            "gradient_accumulation_steps=several? name=text?"
        ),
        "SGD": (
            "learning_rate=rate momentum=share nesterov=flag weight_decay=amount? "
            "clipnorm=positive? clipvalue=positive? global_clipnorm=positive? use_ema=flag "
            "ema_momentum=share ema_overwrite_frequency=count? loss_scale_factor=positive? "
            "gradient_accumulation_steps=several? name=text?"
        ),
    },
    "keras.optimizers.schedules": {
        "CosineDecay": (
            "initial_learning_rate=rate_or_0! decay_steps=steps! alpha=share name=text "
            "warmup_target=rate_or_0? warmup_steps=steps_or_0"
        ),
        "CosineDecayRestarts": (
            "initial_learning_rate=rate_or_0! first_decay_steps=steps! t_mul=growth "
            "m_mul=rate_or_0 alpha=share name=text"
        ),
        "ExponentialDecay": (
            "initial_learning_rate=rate_or_0! decay_steps=steps! decay_rate=rate! staircase=flag "
            "name=text"
        ),
        "InverseTimeDecay": (
            "initial_learning_rate=rate_or_0! decay_steps=steps! decay_rate=rate! staircase=flag "
            "name=text"
        ),
        "PiecewiseConstantDecay": (
            "boundaries=boundaries! values=rates! name=text"
        ),
        "PolynomialDecay": (
            "initial_learning_rate=rate_or_0! decay_steps=steps! end_learning_rate=rate_or_0 "
            "power=positive cycle=flag name=text"
        ),
    },
    "keras.layers": {
        "AugMix": (
            "value_range=range num_chains=few chain_depth=few factor=strength alpha=positive "
            "all_ops=flag interpolation=interpolation seed=seed? data_format=channels_last? "
            "name=text? dtype=float32? trainable=flag"
        ),
        "AutoContrast": (
            "value_range=range name=text? dtype=float32? trainable=flag"
        ),
        "GaussianNoise": (
            "stddev=share! seed=seed? name=text? dtype=float32? trainable=flag"
        ),
        "RandAugment": (
            "value_range=range num_ops=few factor=strength interpolation=interpolation seed=seed? "
            "data_format=channels_last? name=text? dtype=float32? trainable=flag"
        ),
        "RandomBrightness": (
            "factor=factor! value_range=range seed=seed? name=text? dtype=float32? trainable=flag"
        ),
        "RandomColorDegeneration": (
            "factor=strength! value_range=range data_format=channels_last? seed=seed? name=text? "
            "dtype=float32? trainable=flag"
        ),
        "RandomColorJitter": (
            "value_range=range brightness_factor=factor? contrast_factor=strength? "
            "saturation_factor=strength? hue_factor=strength? seed=seed? "
            "data_format=channels_last? name=text? dtype=float32? trainable=flag"
        ),
        "RandomContrast": (
            "factor=strength! value_range=range seed=seed? name=text? dtype=float32? "
            "trainable=flag"
        ),
        "RandomCrop": (
            "height=size! width=size! seed=seed? data_format=channels_last? name=text? "
            "dtype=float32? trainable=flag"
        ),
        "RandomElasticTransform": (
            "factor=strength scale=strength interpolation=interpolation fill_mode=fill_mode "
            "fill_value=fill value_range=range seed=seed? data_format=channels_last? name=text? "
            "dtype=float32? trainable=flag"
        ),
        "RandomErasing": (
            "factor=strength scale=strength fill_value=fill_or_colour? value_range=range "
            "seed=seed? data_format=channels_last? name=text? dtype=float32? trainable=flag"
        ),
        "RandomFlip": (
            "mode=flips seed=seed? data_format=channels_last? name=text? dtype=float32? "
            "trainable=flag"
        ),
        "RandomGaussianBlur": (
            "factor=strength kernel_size=odd sigma=strength value_range=range "
            "data_format=channels_last? seed=seed? name=text? dtype=float32? trainable=flag"
        ),
        "RandomGrayscale": (
            "factor=share data_format=channels_last? seed=seed? name=text? dtype=float32? "
            "trainable=flag"
        ),
        "RandomHue": (
            "factor=strength! value_range=range data_format=channels_last? seed=seed? name=text? "
            "dtype=float32? trainable=flag"
        ),
        "RandomInvert": (
            "factor=strength value_range=range seed=seed? data_format=channels_last? name=text? "
            "dtype=float32? trainable=flag"
        ),
        "RandomPerspective": (
            "factor=strength scale=share interpolation=interpolation fill_value=fill seed=seed? "
            "data_format=channels_last? name=text? dtype=float32? trainable=flag"
        ),
        "RandomPosterization": (
            "factor=bits! value_range=range data_format=channels_last? seed=seed? name=text? "
            "dtype=float32? trainable=flag"
        ),
        "RandomRotation": (
            "factor=turn! fill_mode=fill_mode interpolation=interpolation seed=seed? "
            "fill_value=fill data_format=channels_last? name=text? dtype=float32? trainable=flag"
        ),
        "RandomSaturation": (
            "factor=strength! value_range=range data_format=channels_last? seed=seed? name=text? "
            "dtype=float32? trainable=flag"
        ),
        "RandomSharpness": (
            "factor=strength! value_range=range data_format=channels_last? seed=seed? name=text? "
            "dtype=float32? trainable=flag"
        ),
        "RandomShear": (
            "x_factor=strength y_factor=strength interpolation=interpolation fill_mode=fill_mode "
            "fill_value=fill data_format=channels_last? seed=seed? name=text? dtype=float32? "
            "trainable=flag"
        ),
        "RandomTranslation": (
            "height_factor=factor! width_factor=factor! fill_mode=fill_mode "
            "interpolation=interpolation seed=seed? fill_value=fill data_format=channels_last? "
            "name=text? dtype=float32? trainable=flag"
        ),
        "RandomZoom": (
            "height_factor=zoom! width_factor=zoom? fill_mode=fill_mode "
            "interpolation=interpolation seed=seed? fill_value=fill data_format=channels_last? "
            "name=text? dtype=float32? trainable=flag"
        ),
        "Solarization": (
            "addition_factor=strength threshold_factor=strength value_range=range seed=seed? "
            "name=text? dtype=float32? trainable=flag"
        ),
        "ZeroPadding2D": (
            "padding=padding data_format=channels_last? name=text? dtype=float32? trainable=flag"
        ),
    },
}
# fmt: on
