"""Definitions of all logged metrics."""

from metarl_agents.registry import find_agent

#: Columns of metrics.jsonl: identical in every repetition of a run on a CPU.
GLOSSARY: dict[str, str] = {
    "iteration": "finished meta-iterations; each is a collection followed by its gradient steps",
    "env_steps": "environment steps collected so far, including the initial ones",
    "gradient_steps": "gradient steps taken so far",
    "collect/episodes": "episodes collected in the iteration",
    "collect/episode_length": "mean number of steps of those episodes",
    "collect/return_mean": "mean undiscounted return of those episodes, with sampled actions",
    "collect/return_std": "standard deviation of those returns",
    "collect/return_min": "smallest of those returns",
    "collect/return_max": "largest of those returns",
    "collect/return_prior": "mean return of the episodes with z from the prior",
    "collect/return_posterior": "mean return of the episodes with z from the posterior",
    "collect/return_trial": "mean return of episodes of trials, in which the task is inferred",
    "collect/return_task": "mean return of the episodes whose policy received the task",
    "collect/return_exploring": "mean return of the episodes with exploration noise or sampled actions",
    "collect/return_warm_up": "mean return of the episodes that fill the episode buffer, with h = 0",
    "collect/return_before": "mean return of the episodes before any adaptation",
    "collect/return_between": "mean return of the episodes between two adaptation steps, or first and last",
    "collect/return_after": "mean return of the episodes after the last adaptation step",
    "collect/return_first": "mean return of the first episodes of a recurrent agent's trials",
    "collect/return_last": "mean return of the last episodes of those trials",
    "collect/task": "index of the training task whose warm-up is complete",
    "collect/virtual_return": "mean return of its policy in the learned dynamics, at the end of the warm-up",
    "collect/rating": "rating of the task, by which tasks are selected",
    "collect/new_model_error": "one-step error of the dynamics on the collected steps, before learning them",
    "collect/trained_tasks": "tasks whose steps have been collected so far",
    "collect/skipped_tasks": "tasks that were rated and skipped so far",
    "collect/rating_steps": "environment steps so far that only rated tasks; they are part of env_steps",
    "collect/measured_steps": "steps so far that only measured policies; they are not part of env_steps",
    "update/critic_loss": "sum of both critics' mean squared errors, for scaled rewards",
    "update/temperature": "entropy coefficient alpha before the gradient step",
    "update/target_value": "mean of the critics' targets",
    "update/policy_value": "mean of Q1(s, pi(s)) at the actor's last gradient step",
    "update/value_loss": "mean squared error of the value network, for scaled rewards",
    "update/actor_loss": "mean of log pi(a|s) - min Q(s, a), plus the penalties",
    "update/kl": "KL divergence of the posteriors from N(0, I), summed over tasks and dimensions of z",
    "update/posterior_variance": "mean variance of the posteriors in training",
    "update/adapter_loss": "mean squared error of predicted heads; always predicting the mean head gives 1",
    "update/head_scale": "root mean square deviation of the tasks' heads from their mean",
    "update/surrogate": "outer surrogate loss, mean over tasks; with a trust region, after the step",
    "update/policy_kl": "mean KL divergence of the outer policies from the acting ones, mean over tasks",
    "update/start_kl": "the same for the policy before adaptation",
    "update/kl_penalty": "eta, the weight of update/start_kl in the loss",
    "update/model_error": "root mean square of the dynamics' normalised errors, mean over steps of sequences",
    "update/first_virtual_return": "mean virtual return at the start of an inner iteration, after the fit",
    "update/virtual_return": "mean virtual return at its end",
    "update/step_length": "fraction of the full trust-region step that was taken; 0 if it was rejected",
    "update/action_std": "mean standard deviation of the policy's actions, before any adaptation",
    "update/embedding_square": "mean square of the entries of the task embeddings",
    "update/step_size": "mean absolute step size of the adapted parameters",
    "update/entropy": "mean of -log pi(a|s) in nats, after the tanh",
    "update/value_error": "half the mean squared difference between Q and its target",
    "update/trace": "mean coefficient of Retrace",
    "update/prior_kl": "mean KL divergence of the policy, or of IWPL's weights, from the prior, in nats",
    "update/prior_loss": "mean negative log-likelihood or KL divergence that the behaviour prior minimises",
    "update/prior_std": "mean standard deviation of the behaviour prior",
    "update/alpha": "temperature of IWPL's weights before the gradient step",
    "update/eta": "temperature of MPO's weights before the gradient step",
    "update/weight_kl": "mean KL divergence of MPO's weights from equal weights in nats",
    "update/kl_exceeded": "fraction of states whose KL divergence of the weights exceeds its bound",
    "update/effective_samples": "mean effective number 1 / sum q^2 of the weighted actions of a state",
    "update/step_kl_mean": "mean KL divergence between MPO's target and new policies due to the mean",
    "update/step_kl_std": "the same due to the standard deviation",
}

#: Columns of timing.jsonl: values that differ between repetitions.
TIMING_GLOSSARY: dict[str, str] = {
    "iteration": "finished meta-iterations",
    "seconds": "wall-clock seconds since the process started or resumed the run",
    "seconds_cpu": "CPU seconds of all threads of the process in this time",
    "seconds_collect": "of the wall-clock seconds, seconds spent in collection",
    "seconds_update": "of the wall-clock seconds, seconds spent in gradient steps",
}

#: Columns of evaluations.jsonl: one line per evaluation and protocol during training.
EVALUATION_GLOSSARY: dict[str, str] = {
    "iteration": "finished meta-iterations",
    "env_steps": "environment steps of training so far",
    "protocol": "name of the protocol",
    "evaluate/return": "IQM over tasks of the return of the scored episodes",
    "evaluate/return_low": "lower end of its 95 % bootstrap interval",
    "evaluate/return_high": "upper end of that interval",
    "evaluate/first_return": "IQM over tasks of the return of the first episode of a trial",
    "evaluate/success": "fraction of scored episodes with success at any step",
    "evaluate/virtual_return": "SLBO: mean return in the learned dynamics at the end of the warm-ups",
    "evaluate/model_error": "SLBO: mean error of the dynamics in the last inner iteration of the warm-ups",
    "evaluate/new_steps": "MQL: transitions of the new task, mean over tasks",
    "evaluate/weight": "MQL: mean propensity weight beta of old data",
    "evaluate/weight_used": "MQL: fraction of old data with a weight above the floor",
    "evaluate/ess": "MQL: normalised effective sample size of old data",
    "evaluate/proximal": "MQL: weight lambda of the proximal term",
    "evaluate/distance": "MQL: squared distance of the adapted actor's parameters from the meta-trained ones",
}


def glossary(*agents: str) -> dict[str, str]:
    """The columns of metrics.jsonl in runs of these agents, with their meanings."""
    result = dict(GLOSSARY)
    for agent in agents:
        result |= find_agent(agent).metrics
    return result
