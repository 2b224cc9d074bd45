// What the store holds: the documents of src/crossproof/explorer/documents.py and format.py.

export interface Dictionary {
  name: string;
  latents: number;
  dead: number;
  tokens: number;
  pair_tokens: number;
  detail_tokens: number;
  pairs: number;
  pairs_complete: boolean;
  described: number;
  neurons: Record<string, number>;
  forms: string[];
  gated: boolean;
  views: Record<string, string>;
  hookpoints: string[];
  /** Whether they are those of two models. */
  joint: boolean;
  totals: Record<string, number>;
  logits: string;
  unread: string;
  objective: string;
  figures: Record<string, number[]>;
  curve: { name?: string; reach?: number; y?: number[] };
}

export interface Manifest {
  model: string;
  model_hash: string;
  text: { text: string; split: string; sequences: number; context: number };
  dictionaries: Dictionary[];
  live: boolean;
}

export interface Context {
  tokens: string[];
  values: number[][];
  peak: number;
  sequence: number;
  position: number;
  group?: string | number;
}

export interface PairFigures {
  coactive: number;
  per_token: number;
  per_coactive: Record<string, number>;
  directed: number[];
  by_block: Record<string, number>;
  second_difference: number | null;
  described: boolean;
}

export interface Partner {
  latent: number;
  /** Where their interaction is strongest. */
  block: number;
  coactive: number;
  per_token: number;
  per_coactive: Record<string, number>;
  second_difference: number | null;
  described: boolean;
}

export interface DominatedNeuron {
  block: number;
  neuron: number;
  number: number;
  share: number;
}

export interface LatentPage {
  latent: number;
  active: number;
  tokens: number;
  frequency: number;
  mean: number;
  largest: number;
  interaction: number;
  histogram: [number, number][];
  contexts: Context[];
  logits: {
    missing?: string;
    hookpoint?: string;
    promoted?: [string, number][];
    suppressed?: [string, number][];
  };
  nearest: [number, number][];
  partners: Partner[];
  neurons: DominatedNeuron[];
  owned: Record<string, number>;
  norms: number[];
  relative_norm: number | null;
  cluster: number | null;
  explanation: string | null;
}

export interface Meeting {
  block: number;
  neuron: number;
  norm: number;
  rest: number[];
  first: number[];
  second: number[];
  values: number[];
  difference: number;
}

export interface PairPage extends PairFigures {
  latents: [number, number];
  active: [number, number];
  tokens: number;
  detail_tokens: number;
  together: number;
  compared: number;
  contexts: (Context & { neurons: Meeting[] })[];
  alone: [Context[], Context[]];
}

export interface Stack {
  norm: number;
  baseline: number[];
  latents: number[];
  contributions: number[][];
  more: number[];
  input: number[];
  value: number;
}

export interface NeuronPage {
  block: number;
  neuron: number;
  number: number;
  tokens: number;
  owners: [number, number][];
  examples: (Context & Stack)[];
}

export interface MapPage {
  edges: [number, number, number][];
  latents: number[];
  x: number[];
  y: number[];
  clusters: number[];
  interaction: number[];
}

export type Cell = string | number | boolean | null;

export interface Rows {
  total: number;
  columns: string[];
  rows: Cell[][];
}

export interface Question {
  text: string;
  sort: string;
  descending: boolean;
  least: Record<string, number>;
  most: Record<string, number>;
  first: number;
  rows: number;
}

export interface SentenceToken {
  text: string;
  scored: boolean;
  loss: number | null;
  interaction: number;
  error: number;
  latents: [number, number][];
}

export interface Sentence {
  tokens: SentenceToken[];
  blocks: number[];
}

export interface TokenNeurons {
  neurons: (Stack & { block: number; neuron: number; number: number })[];
  next: [string, number][];
}

export interface Ablation {
  next: [string, number, number][];
  divergence: number;
}
