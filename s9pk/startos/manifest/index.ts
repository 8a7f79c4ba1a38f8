import { setupManifest, T } from '@start9labs/start-sdk'
import { current } from '../versions/current'
import { long, reasons, short } from './i18n'

/** One package for each kind of machine; which one is packed is told by the environment. */
const variants = ['nvidia', 'rocm', 'cpu'] as const
type Variant = (typeof variants)[number]

const chosen = process.env.VARIANT ?? 'nvidia'
if (!variants.some((name) => name === chosen)) {
  throw new Error(`VARIANT is ${chosen}, not one of ${variants.join(', ')}`)
}
const variant = chosen as Variant

/** vLLM's release, the tag of its images. */
const upstream = current.options.version.split(':')[0]

const images = {
  nvidia: {
    source: { dockerTag: `vllm/vllm-openai:v${upstream}` },
    arch: ['x86_64', 'aarch64'],
    nvidiaContainer: true,
  },
  rocm: {
    source: { dockerTag: `vllm/vllm-openai-rocm:v${upstream}` },
    arch: ['x86_64'],
  },
  cpu: {
    source: {
      dockerBuild: {
        // Both are made by vllm/fetch.
        workdir: '../vllm/source',
        dockerfile: '../vllm/docker/Dockerfile.cpu',
        buildArgs: {
          SETUPTOOLS_SCM_PRETEND_VERSION: upstream,
          max_jobs: { env: 'MAX_JOBS' },
        },
      },
    },
    arch: ['x86_64', 'aarch64'],
  },
} satisfies Record<Variant, T.SDKManifest['images'][string]>

/**
 * Discrete cards only: a graphics unit inside a processor has its marketing name too, and is on no list of ROCm. Some
 * of them are called "Radeon RX Vega 6": a number has to follow.
 */
const devices: Record<Variant, T.DeviceFilter[]> = {
  nvidia: [
    {
      class: 'display',
      vendor: null,
      product: null,
      driver: 'nvidia',
      description: reasons.nvidia,
    },
  ],
  rocm: [
    {
      class: 'display',
      vendor: null,
      product: 'Navi [0-9]|Radeon RX [0-9]{3}|Radeon VII|Instinct',
      driver: 'amdgpu',
      description: reasons.rocm,
    },
  ],
  cpu: [],
}

export const manifest = setupManifest({
  id: 'vllm',
  title: 'vLLM',
  license: 'Apache-2.0',
  packageRepo: 'https://github.com/Start9Labs/vllm-startos',
  upstreamRepo: 'https://github.com/vllm-project/vllm',
  marketingUrl: 'https://vllm.ai',
  donationUrl: null,
  description: { short, long },
  volumes: ['main', 'public'],
  images: { vllm: images[variant] as T.SDKManifest['images'][string] },
  // The registry compares it across variants, so that it is the same in all of them.
  hardwareAcceleration: true,
  hardwareRequirements: { device: devices[variant] },
  dependencies: {},
})
