/** What other programs may build on: a node, its configuration, its errors. */
export { RomulusError, type ErrorCode, type ErrorFamily } from './base/errors.ts';
export { type RunOptions, runNode } from './daemon/run-node.ts';
export { type NodeConfig, type NodeConfigInput, parseNodeConfig } from './engine/config.ts';
export { Node } from './engine/node.ts';
export type { NodeEvent, NodeStatus, Spread } from './engine/status.ts';
