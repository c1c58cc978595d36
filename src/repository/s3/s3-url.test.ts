import { describe, expect, it } from 'vitest';
import { parseS3Url, s3Text } from './s3-url.ts';

describe('the URL of a bucket', () => {
  it('says where the bucket is and how it is reached', () => {
    expect(parseS3Url('s3://edge-models')).toMatchObject({ bucket: 'edge-models', prefix: '' });
    expect(parseS3Url('s3://edge-models//zoo/small/')).toMatchObject({ prefix: 'zoo/small/' });
    expect(
      parseS3Url('s3://b-1/x?endpoint=http://10.0.0.1:9000&region=eu-west-1&path-style=false&profile=edge'),
    ).toEqual({
      bucket: 'b-1',
      prefix: 'x/',
      endpoint: 'http://10.0.0.1:9000',
      region: 'eu-west-1',
      isPathStyle: false,
      profile: 'edge',
    });
  });

  it("may be written as Triton's users do", () => {
    expect(parseS3Url('s3://https://store.example:9000/bucket/models')).toMatchObject({
      endpoint: 'https://store.example:9000',
      bucket: 'bucket',
      prefix: 'models/',
    });
  });

  it.each([
    ['s3://', /names the bucket ""/],
    ['s3://Upper/x', /names the bucket "Upper"/],
    ['s3://bucket/../other', /characters that need escaping/],
    ['s3://bucket/a b', /characters that need escaping/],
    ['s3://bucket/x?endpont=http://h', /option "endpont"/],
    ['s3://bucket/x?endpoint=ftp://h', /no address of HTTP/],
    ['s3://bucket/x?path-style=yes', /true or false/],
    ['http://bucket/x', /does not begin with s3/],
  ])('is refused where a part cannot be used: %s', (text, message) => {
    expect(() => parseS3Url(text)).toThrow(message);
  });

  it('is told to people without how it is reached', () => {
    const url = parseS3Url('s3://http://h:1/bucket/zoo');
    expect(s3Text(url)).toBe('s3://bucket/zoo');
    expect(s3Text(url, 'mnist/bonsai.json')).toBe('s3://bucket/zoo/mnist/bonsai.json');
  });
});
