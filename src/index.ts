import './engine/no-telemetry.ts';

// The library: all that a program needs to read, look into, prune, quantise, train and measure ONNX networks.
// Everything else is an inside that may change.

export { BonsaiError, ERROR_CODES, type ErrorCode, InvalidArgumentError } from './base/errors.ts';
export { type Random, seededRandom } from './base/random.ts';
export { float32Tensor, floatsOf, int64Tensor, type Tensor, tensorOf } from './base/tensor.ts';
export { probeBlockSize } from './engine/probe-block.ts';
export { Session, type SessionOptions } from './engine/session.ts';
export { describeTarget, type TargetDescription } from './engine/target.ts';
export { GraphBuilder, modelOf } from './graph/build.ts';
export { checkModel } from './graph/check.ts';
export { CorruptModelError, InvalidGraphError } from './graph/errors.ts';
export type { Attribute, Dim, Graph, Model, Node, Shape, ValueInfo, ValueType } from './graph/model.ts';
export { type ReadOptions, readModel, readModelFile } from './graph/onnx/read.ts';
export { writeModel, writeModelFile } from './graph/onnx/write.ts';
export { type CountOptions, countCost, countParameters, type GraphCost } from './ops/count.ts';
export type {
  Dispatch,
  DispatchDecision,
  DispatchState,
  DispatchTask,
  QueuedRequest,
  ResidentVersion,
  ShedReason,
} from './policy/dispatch.ts';
export type {
  Action,
  Decision,
  Policy,
  PolicyState,
  ResidencyAction,
  ServiceSample,
  TaskState,
} from './policy/policy.ts';
export { dispatchPolicyByName } from './policy/registry.ts';
export { type ReestimateOptions, reestimateBatchNorm } from './port/batch-norm/batch-norm.ts';
export { CALIBRATION_METHODS, type CalibrationMethod } from './port/calibrate/calibrate.ts';
export {
  type QuantizationRecord,
  type QuantizeNetworkOptions,
  quantizeNetwork,
} from './port/calibrate/quantize-network.ts';
export type { DataModule, Dataset, Split } from './port/data/data-module.ts';
export { DATA_SPECS, dataModule } from './port/data/registry.ts';
export type { Evaluation } from './port/evaluate/classify.ts';
export { type EvaluateOptions, evaluate } from './port/evaluate/evaluate.ts';
export {
  type GoalMeasure,
  type GoalProgress,
  type GoalResult,
  type PruneToGoalOptions,
  pruneToGoal,
} from './port/goal.ts';
export { type ImageInput, withImageInput } from './port/image-input.ts';
export { type GatherOptions, gatherCriterion } from './port/importance/gather.ts';
export { portFamily, standardSteps } from './port/pipeline/pipeline.ts';
export type {
  Family,
  FoundVariant,
  PortDistillation,
  PortOptions,
  PortProgress,
  PortSteps,
} from './port/pipeline/types.ts';
export { type LatencyOptions, profileLatency } from './port/profile/latency.ts';
export {
  type IterativePruneOptions,
  type PruneHooks,
  type PruneRound,
  pruneIteratively,
} from './port/prune-iteratively.ts';
export { openStepCache, type StepCache } from './port/step-cache.ts';
export type { TrainingRecipe } from './port/train/recipe.ts';
export { type TrainingOptions, type TrainingResult, trainNetwork } from './port/train/train.ts';
export { transferTo } from './port/transfer.ts';
export {
  MASK_TOLERANCE,
  type Verification,
  type VerifyOptions,
  type VerifyProgress,
} from './port/verify/mask-equivalence.ts';
export { verify } from './port/verify/verify.ts';
export { type ChainOptions, geometricChain, simulatedVariant } from './simulate/chain.ts';
export {
  type BuiltInDemand,
  builtInDemand,
  squareBursts,
  type TwitterDemand,
  twitterDemand,
} from './simulate/demand.ts';
export { makeScenario, type Scenario, type SimulatedTask } from './simulate/scenario.ts';
export { simulate } from './simulate/simulate.ts';
export {
  confidenceInterval,
  type Interval,
  type SimulationSummary,
  summarizeSimulation,
} from './simulate/summary.ts';
export { drawWorkload, type Workload, type WorkloadOptions } from './simulate/workload.ts';
export { type Distillation, LOSSES, type Loss } from './transform/autodiff/loss.ts';
export type { AdamW, Optimizer, Sgd } from './transform/autodiff/optimizer.ts';
export {
  buildTrainingStep,
  readParameters,
  type TrainingStep,
  type TrainingStepOptions,
  writeParameters,
} from './transform/autodiff/training-step.ts';
export { lowerTrainingStep } from './transform/lower/lower.ts';
export { foldBatchNorm } from './transform/passes/fold-batch-norm.ts';
export { foldConstants } from './transform/passes/fold-constants.ts';
export { singlePrecision } from './transform/passes/single-precision.ts';
export { formatGoal, type Goal, parseGoal, pruneToShare } from './transform/prune/goal.ts';
export {
  type Coupling,
  type DependencyGroups,
  dependencyGroups,
  type FrozenProducer,
  type Group,
  type Member,
} from './transform/prune/groups.ts';
export type { Criterion, GroupOptions } from './transform/prune/importance/criterion.ts';
export {
  CRITERIA,
  type CriterionName,
  DATA_CRITERIA,
  isDataCriterion,
  WEIGHT_CRITERIA,
  weightCriterion,
} from './transform/prune/importance/table.ts';
export { type Inspection, type InspectOptions, inspect } from './transform/prune/inspect.ts';
export { type PropagateOptions, type Propagation, propagateLabels } from './transform/prune/labels.ts';
export { type Maskable, maskable, maskChannels } from './transform/prune/mask.ts';
export {
  type PruneOptions,
  type PruneResult,
  type PruningRecord,
  prune,
  pruneDefaults,
  pruningOf,
} from './transform/prune/prune.ts';
export { removeChannels } from './transform/prune/remove-channels.ts';
