import { describe, expect, it } from 'vitest';
import { float32Tensor } from '../base/tensor.ts';
import { float } from './attributes.ts';
import { GraphBuilder, modelOf } from './build.ts';
import { printModel } from './print.ts';

describe('printModel', () => {
  it('shows a graph one line a node, with shapes, small constants and subgraphs', () => {
    const inner = new GraphBuilder('inner');
    inner.output(inner.op('Neg', ['a']), 'float32');
    const b = new GraphBuilder('outer');
    const x = b.input('x', 'float32', ['N', 3, null]);
    b.initializer('unused', float32Tensor([9], Array(9).fill(0)));
    b.op('Relu', [x], {}, { outputs: ['a'] });
    b.op('If', [x], { then_branch: { kind: 'graph', value: inner.finish() } }, { outputs: ['y', ''] });
    const values = {
      pads: [1, -2],
      alpha: Math.fround(0.1),
      beta: float(1),
      mode: 'a "b"',
      value: float32Tensor([3, 4], Array(12).fill(0)),
    };
    const odd = b.op('Odd', ['y', undefined, b.ints([0, -1])], values, { domain: 'custom' });
    b.output(odd, 'int64', []);
    const model = modelOf(b.finish(), {
      metadata: { 'bonsai.task': 'digits' },
      extraOpsets: [{ domain: 'custom', version: 1 }],
    });
    expect(printModel(model)).toMatchInlineSnapshot(`
      "model ir 8, opset 17, opset custom 1, producer "bonsai"
      metadata bonsai.task: "digits"
      graph "outer"
        input  x: float32[N, 3, ?]
        initializer unused: float32[9]
        a = Relu(x)
        y, - = If(x)
          then_branch:
            graph "inner"
              neg = Neg(a)
              output neg: float32
        odd = custom.Odd(y, -, ints: int64[2] = 0 -1) {alpha: 0.1, beta: 1.0, mode: "a \\"b\\"", pads: [1, -2], value: float32[3, 4]}
        output odd: int64[]
      "
    `);
  });
});
