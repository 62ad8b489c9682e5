"""The papers whose methods a run used, as BibTeX, in the order of their years."""

from gap_jax.report.results import Results

_ALWAYS = ("radford2021clip", "rombach2022ldm", "yeo2024controlled")
_ARMS = {  # part of an arm's name -> paper
    "randaugment": "cubuk2020randaugment",
    "cutmix": "yun2019cutmix",
    "augmix": "hendrycks2020augmix",
    "copy-paste": "ghiasi2021copypaste",
    "sdedit": "meng2022sdedit",
    "inversion": "gal2023textual",
}
_SHIFTS = {"cc": "hendrycks2019benchmarking", "3dcc": "kar2022corruptions"}
_ENTRIES = {
    "hendrycks2019benchmarking": """@inproceedings{hendrycks2019benchmarking,
  title     = {Benchmarking Neural Network Robustness to Common Corruptions and Perturbations},
  author    = {Hendrycks, Dan and Dietterich, Thomas},
  booktitle = {International Conference on Learning Representations},
  year      = {2019}
}""",
    "yun2019cutmix": """@inproceedings{yun2019cutmix,
  title     = {{CutMix}: Regularization Strategy to Train Strong Classifiers with Localizable Features},
  author    = {Yun, Sangdoo and Han, Dongyoon and Oh, Seong Joon and Chun, Sanghyuk and Choe, Junsuk and
               Yoo, Youngjoon},
  booktitle = {International Conference on Computer Vision},
  year      = {2019}
}""",
    "cubuk2020randaugment": """@inproceedings{cubuk2020randaugment,
  title     = {{RandAugment}: Practical Automated Data Augmentation with a Reduced Search Space},
  author    = {Cubuk, Ekin D. and Zoph, Barret and Shlens, Jonathon and Le, Quoc V.},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2020}
}""",
    "hendrycks2020augmix": """@inproceedings{hendrycks2020augmix,
  title     = {{AugMix}: A Simple Data Processing Method to Improve Robustness and Uncertainty},
  author    = {Hendrycks, Dan and Mu, Norman and Cubuk, Ekin D. and Zoph, Barret and Gilmer, Justin and
               Lakshminarayanan, Balaji},
  booktitle = {International Conference on Learning Representations},
  year      = {2020}
}""",
    "ghiasi2021copypaste": """@inproceedings{ghiasi2021copypaste,
  title     = {Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation},
  author    = {Ghiasi, Golnaz and Cui, Yin and Srinivas, Aravind and Qian, Rui and Lin, Tsung-Yi and
               Cubuk, Ekin D. and Le, Quoc V. and Zoph, Barret},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2021}
}""",
    "radford2021clip": """@inproceedings{radford2021clip,
  title     = {Learning Transferable Visual Models From Natural Language Supervision},
  author    = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and
               Agarwal, Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and
               Krueger, Gretchen and Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}""",
    "rombach2022ldm": """@inproceedings{rombach2022ldm,
  title     = {High-Resolution Image Synthesis with Latent Diffusion Models},
  author    = {Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Björn},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
    "meng2022sdedit": """@inproceedings{meng2022sdedit,
  title     = {{SDEdit}: Guided Image Synthesis and Editing with Stochastic Differential Equations},
  author    = {Meng, Chenlin and He, Yutong and Song, Yang and Song, Jiaming and Wu, Jiajun and Zhu, Jun-Yan
               and Ermon, Stefano},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}""",
    "kar2022corruptions": """@inproceedings{kar2022corruptions,
  title     = {{3D} Common Corruptions and Data Augmentation},
  author    = {Kar, Oğuzhan Fatih and Yeo, Teresa and Atanov, Andrei and Zamir, Amir},
  booktitle = {Conference on Computer Vision and Pattern Recognition},
  year      = {2022}
}""",
    "gal2023textual": """@inproceedings{gal2023textual,
  title     = {An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion},
  author    = {Gal, Rinon and Alaluf, Yuval and Atzmon, Yuval and Patashnik, Or and Bermano, Amit H. and
               Chechik, Gal and Cohen-Or, Daniel},
  booktitle = {International Conference on Learning Representations},
  year      = {2023}
}""",
    "yeo2024controlled": """@article{yeo2024controlled,
  title   = {Controlled Training Data Generation with Diffusion Models},
  author  = {Yeo, Teresa and Atanov, Andrei and Benoit, Harold and Alekseev, Aleksandr and Ray, Ruchira and
             Esmaeil Akhoondi, Pooya and Zamir, Amir},
  journal = {arXiv preprint arXiv:2403.15309},
  year    = {2024}
}""",
}


def citations(results: Results) -> list[str]:
    """Return BibTeX entries: of the method, the generator, and the arms and corruptions of these results."""
    kinds = {column.kind for column in results.columns}
    used = {*_ALWAYS, *(paper for kind, paper in _SHIFTS.items() if kind in kinds)}
    for arm in results.arms:
        used |= {paper for part, paper in _ARMS.items() if part in arm}
    return [entry for name, entry in _ENTRIES.items() if name in used]
