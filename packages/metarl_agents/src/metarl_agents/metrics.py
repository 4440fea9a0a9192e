"""Every logged metric and what it is."""

#: Columns of metrics.jsonl: the same in every repetition of a run on CPU.
GLOSSARY: dict[str, str] = {
    "iteration": "meta-iterations finished: a collection followed by its gradient steps",
    "env_steps": "environment steps collected so far, the initial ones included",
    "gradient_steps": "gradient steps taken so far",
    "collect/episodes": "episodes collected in the iteration",
    "collect/episode_length": "mean number of steps of those episodes",
    "collect/return_mean": "mean undiscounted return of those episodes, sampled actions",
    "collect/return_std": "standard deviation of those returns",
    "collect/return_min": "smallest of those returns",
    "collect/return_max": "largest of those returns",
    "collect/return_prior": "mean return of the episodes that acted on z from the prior",
    "collect/return_posterior": "mean return of the episodes that acted on z from the posterior",
    "collect/return_task": "mean return of the episodes that observed the task",
    "update/critic_loss": "sum of both critics' mean squared errors, scaled rewards",
    "update/value_loss": "mean squared error of the value network, scaled rewards",
    "update/actor_loss": "mean of log pi(a|s) - min Q(s, a) with the penalties added",
    "update/kl": "KL of the posteriors from N(0, I), summed over tasks and latent dimensions",
    "update/posterior_variance": "mean variance of the posteriors in training",
    "update/adapter_loss": "mean squared error of predicted heads; 1 is what the mean head would have",
    "update/head_scale": "root mean square deviation of the tasks' heads from their mean",
    "update/entropy": "mean of -log pi(a|s), nats, after the tanh",
}

#: Columns of timing.jsonl: what differs between repetitions.
TIMING_GLOSSARY: dict[str, str] = {
    "iteration": "meta-iterations finished",
    "seconds": "wall-clock seconds since the process started or resumed the run",
    "seconds_collect": "of these, seconds spent collecting",
    "seconds_update": "of these, seconds spent in gradient steps",
}
